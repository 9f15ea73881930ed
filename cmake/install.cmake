# Installs headers, library and the package files behind find_package(saccade).

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/saccade)

install(DIRECTORY include/saccade TYPE INCLUDE)
install(TARGETS saccade EXPORT saccade-targets)
install(EXPORT saccade-targets NAMESPACE saccade:: DESTINATION ${package_dir})

configure_package_config_file(
  cmake/saccade-config.cmake.in ${PROJECT_BINARY_DIR}/saccade-config.cmake
  INSTALL_DESTINATION ${package_dir}
  NO_SET_AND_CHECK_MACRO)
# Before 1.0 a new minor version may change the interface.
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/saccade-config-version.cmake COMPATIBILITY SameMinorVersion)
install(
  FILES ${PROJECT_BINARY_DIR}/saccade-config.cmake
        ${PROJECT_BINARY_DIR}/saccade-config-version.cmake
  DESTINATION ${package_dir})

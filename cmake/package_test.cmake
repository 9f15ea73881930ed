# Installs this build into a scratch prefix, then configures, builds and runs tests/consumer against
# it, as a user of the package would.

set(scratch ${PROJECT_BINARY_DIR}/package_test)

add_test(NAME package.install
         COMMAND ${CMAKE_COMMAND} --install ${PROJECT_BINARY_DIR} --prefix ${scratch}/prefix)
set_tests_properties(package.install PROPERTIES FIXTURES_SETUP installed_package)

# fmt and nlohmann-json are used by the build only: a consumer must not need them.
add_test(
  NAME package.consumer
  COMMAND
    ${CMAKE_CTEST_COMMAND}
    --build-and-test ${PROJECT_SOURCE_DIR}/tests/consumer ${scratch}/consumer
    --build-generator ${CMAKE_GENERATOR}
    --build-options
      -DCMAKE_PREFIX_PATH=${scratch}/prefix
      -DCMAKE_BUILD_TYPE=${CMAKE_BUILD_TYPE}
      -DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}
      -DCMAKE_CXX_FLAGS=${CMAKE_CXX_FLAGS}
      -DCMAKE_DISABLE_FIND_PACKAGE_fmt=ON
      -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON
    --test-command ${scratch}/consumer/consumer)
set_tests_properties(package.consumer PROPERTIES FIXTURES_REQUIRED installed_package)

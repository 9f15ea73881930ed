"""The transformers of diffusers: which ones saccade can serve, and the hook on each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.hooks.hooks import BaseState, HookRegistry, ModelHook, StateManager
from diffusers.models.transformers.transformer_wan import (
    WanAttention,
    WanRotaryPosEmbed,
    WanTransformer3DModel,
)
from torch import nn

from ..baselines import VideoLayout
from ..errors import InvalidArgument, Unsupported
from ..functional import info
from ..lite import LiteAttention
from ..lite_schedule import Fingerprint, ScheduleTable
from ..sla_module import SparseLinearAttention
from ..space_time import Box, require_token_order
from .chosen_tiles import NEEDS_VIDEO
from .fingerprint import identity_of, text_of
from .layer import Attention, Layer
from .redirection import Redirection, require_known_dispatcher, unregister_backends
from .reordering import BoxChoice, Reordering
from .sla_layers import SLA_NAME
from .trajectory import Trajectory

_HOOK = "saccade"
# Options of LiteAttention, and fields of its schedule, that count tokens.
_RANGES = (
    *("protected_queries", "protected_keys", "skipped_queries", "skipped_keys"),
    *("must_do_queries", "must_do_keys", "must_skip_queries", "must_skip_keys"),
)
_ACCEPTED = "a WanTransformer3DModel, another model with WanAttention, or a WanPipeline of such"


def require_known_internals() -> None:
    """Raises AttributeError where diffusers is not as this package needs it."""
    require_known_dispatcher()
    _ = StateManager.context, StateManager.set_context
    _ = HookRegistry.register_hook, HookRegistry.remove_hook, HookRegistry.get_hook


def transformers_of(given: Any) -> dict[str, ModelMixin]:
    """The transformers of a model or pipeline, by the prefix of their layers' paths."""
    found = {} if isinstance(given, DiffusionPipeline) else {"": given}
    for name in ("transformer", "transformer_2") if not found else ():
        part = getattr(given, name, None)
        if part is not None and part not in found.values():
            found[f"{name}."] = part
    if not found:
        raise InvalidArgument(f"need {_ACCEPTED}, got a {type(given).__name__} without transformer")
    for prefix, part in found.items():
        if not isinstance(part, ModelMixin):
            raise InvalidArgument(f"need {_ACCEPTED}, got {prefix}{type(part).__name__}")
    return found


def num_train_timesteps_of(given: Any) -> int:
    """The timestep of pure noise: the scheduler of a pipeline knows it; elsewhere it is 1000."""
    scheduler = getattr(given, "scheduler", None)
    return getattr(getattr(scheduler, "config", None), "num_train_timesteps", 1000)


def fingerprint_of(model: Any, token_order: str | Box) -> Fingerprint:
    """As much of a fingerprint as is known before the first call."""
    transformers = transformers_of(model)
    modules = {prefix: self_attentions(t, prefix) for prefix, t in transformers.items()}
    return Fingerprint(
        model=" + ".join(
            identity_of(t, modules[prefix].values()) for prefix, t in transformers.items()
        ),
        layers=sum(map(len, modules.values())),
        token_order=text_of(token_order),
        saccade_version=info()["version"],
    )


def self_attentions(transformer: ModelMixin, prefix: str) -> dict[str, WanAttention]:
    """The self-attentions of a transformer, by path."""
    found = {
        prefix + path: module
        for path, module in transformer.named_modules()
        if isinstance(module, WanAttention) and not module.is_cross_attention
    }
    if not found:
        raise Unsupported(
            f"need {_ACCEPTED}, got a {type(transformer).__name__} without such self-attention"
        )
    for path, module in found.items():
        if not hasattr(module.processor, "_attention_backend"):
            raise Unsupported(
                f"the {type(module.processor).__name__} of {path} does not go through diffusers' "
                "attention dispatcher; a WanAttnProcessor does"
            )
    return found


def boxes_of(
    transformers: dict[str, ModelMixin], token_order: str | Box, options: dict[str, Any]
) -> BoxChoice | None:
    """What ``token_order`` of saccade.enable means, with the ``options`` of its method.

    None is the order of diffusers. Raises InvalidArgument for an order that does not exist, and
    for protected ranges, which no other order leaves together; Unsupported for a transformer whose
    tokens cannot be reached.
    """
    token_order = require_token_order(token_order)
    if token_order == "frames":
        return None
    given = {name for name, value in options.items() if value}
    schedule = options.get("schedule")
    given |= {name for name in _RANGES if getattr(schedule, name, ())}
    for name in _RANGES:
        if name in given:
            raise InvalidArgument(
                f"{name} is a range of tokens numbered frame by frame, which token_order "
                f"{token_order!r} tears apart; give token_order='frames'"
            )
    for prefix, transformer in transformers.items():
        _require_known(transformer, prefix)
    blocks = {name: options[name] for name in ("block_q", "block_k") if name in options}
    return BoxChoice(token_order, **blocks)


def require_video(
    transformers: dict[str, ModelMixin], method: object, token_order: str | Box
) -> None:
    """Raises where a method that needs the place of each token in the video cannot know it."""
    if method not in NEEDS_VIDEO:
        return
    if token_order != "frames":
        raise InvalidArgument(
            f"method {method!r} needs the tokens frame by frame; give token_order='frames', not "
            f"{token_order!r}"
        )
    for prefix, transformer in transformers.items():
        if not _is_known(transformer):
            raise Unsupported(
                f"method {method!r} is for diffusers' WanTransformer3DModel as it is, got "
                f"{prefix}{type(transformer).__name__}; 'lite', 'pooled' and 'random' are for any"
            )


def _require_known(transformer: ModelMixin, prefix: str) -> None:
    if not _is_known(transformer):
        raise Unsupported(
            "token_order is for diffusers' WanTransformer3DModel as it is, got "
            f'{prefix}{type(transformer).__name__}; "frames" leaves the order of any model alone'
        )


def _is_known(transformer: nn.Module) -> bool:
    """Whether the tokens of a transformer are known to be those of Wan."""
    return (
        type(transformer).forward is WanTransformer3DModel.forward
        and type(getattr(transformer, "rope", None)) is WanRotaryPosEmbed
    )


class TransformerHook(ModelHook):
    """Tells the layers of a transformer about each of its calls, until it is removed.

    A hook of diffusers, so that it gets cache contexts and resets. The calls themselves come
    through hooks of torch, which see those too that another hook answers in place of the model.
    """

    _is_stateful = True

    def __init__(
        self,
        transformer: ModelMixin,
        modules: dict[str, WanAttention],
        attentions: dict[str, Attention],
        num_train_timesteps: int,
        boxes: BoxChoice | None,
        require_steps: Callable[[], None],
        is_strict: bool,
    ) -> None:
        super().__init__()
        self._require_steps = require_steps
        self.attributes_before = frozenset(vars(transformer))
        self.trajectory = Trajectory(num_train_timesteps, is_strict=is_strict)
        self.video: tuple[int, int, int] | None = None  # tokens of the last call, if known
        # What cache_context sets: it looks for attributes of this class. Only the name is used.
        self._contexts = StateManager(BaseState)
        self.layers = [Layer(path, attentions[path], self.trajectory) for path in modules]
        self._redirections = [Redirection(modules[layer.path], layer) for layer in self.layers]
        self._learners = {
            modules[layer.path]: layer.attention
            for layer in self.layers
            if isinstance(layer.attention, SparseLinearAttention)
        }
        for learner, attention in self._learners.items():
            learner.add_module(SLA_NAME, attention)
        self._reordering = None if boxes is None else Reordering(transformer, boxes)
        self.given_token_order = "frames" if boxes is None else boxes.token_order

    @property
    def token_order(self) -> str | Box:
        """As given to saccade.enable; once the model was called, the box that was chosen."""
        return "frames" if self._reordering is None else self._reordering.token_order

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        # Functions stay the same in a copy of the model, where methods would be those of a copied
        # hook: so a copy is noticed.
        @torch.compiler.disable
        def begin(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
            return self._begin_call(module, args, kwargs)

        @torch.compiler.disable
        def end(_module: nn.Module, _args: Any, _output: Any) -> None:
            self.trajectory.end_call()

        self._handles = [
            module.register_forward_pre_hook(begin, with_kwargs=True),
            module.register_forward_hook(end),
        ]
        return module

    def deinitalize_hook(self, module: nn.Module) -> nn.Module:  # diffusers' spelling
        for handle in self._handles:
            handle.remove()
        for redirection in self._redirections:
            redirection.undo()
        for learner in self._learners:
            delattr(learner, SLA_NAME)
        if self._reordering is not None:
            self._reordering.undo()
        unregister_backends([redirection.backend for redirection in self._redirections])
        return module

    def _begin_call(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if hook_of(module) is not self:
            raise Unsupported(
                f"this {type(module).__name__} is a copy of one that saccade is enabled for; "
                "saccade.disable a model before copying it"
            )
        for layer, redirection in zip(self.layers, self._redirections, strict=True):
            if not redirection.holds():
                raise InvalidArgument(
                    f"the processor or attention backend of {layer.path} was changed after "
                    "saccade.enable; saccade.disable a model before changing them"
                )
        if self._reordering is not None:
            self._reordering.require_reach()
        self.video = _video_of(module, *args, **kwargs)
        if self._begin_trajectory(_timestep_of(*args, **kwargs)):
            for layer in self.layers:
                layer.begin_generation()
        is_by_frames = self._reordering is None and _is_known(module)
        self.trajectory.video = (
            VideoLayout(*self.video) if self.video is not None and is_by_frames else None
        )
        if self._reordering is not None:
            args, kwargs = self._reordering.begin_call(args, kwargs)
        return args, kwargs

    def _begin_trajectory(self, timestep: float) -> bool:
        """Whether what the layers have kept so far is over."""
        if torch.is_grad_enabled() and not self.trajectory.is_strict:
            self.trajectory.begin_training_call(timestep)
            return True
        if not self.trajectory.begin_call(timestep, self._context()):
            return False
        self._require_steps()
        return True

    def reset_state(self, module: nn.Module) -> nn.Module:
        """The end of a pipeline: records and tiles stay, to be looked at."""
        self.trajectory.forget()
        return module

    def table(self) -> ScheduleTable | None:
        """What the schedule of its layers said about the last generation, if they have one."""
        sparse = [layer for layer in self.layers if isinstance(layer.attention, LiteAttention)]
        called = [layer for layer in sparse if layer.calls]
        if not called:
            return None
        return called[0].attention.schedule.table(
            [layer.path for layer in self.layers],
            sigmas=self.trajectory.sigmas,
            heads=called[0].heads,
            length=called[0].length,
        )

    def _context(self) -> str | None:
        try:
            return self._contexts.context.name
        except ValueError:  # none is set
            return None


def hook_of(transformer: nn.Module) -> TransformerHook | None:
    """The hook of a transformer, if it is enabled."""
    registry = vars(transformer).get("_diffusers_hook")
    return None if registry is None else registry.get_hook(_HOOK)


def install(
    transformer: ModelMixin,
    modules: dict[str, WanAttention],
    attentions: dict[str, Attention],
    num_train_timesteps: int,
    boxes: BoxChoice | None,
    require_steps: Callable[[], None],
    is_strict: bool,
) -> None:
    """Makes the self-attentions ``modules`` of a transformer call ``attentions``, by path.

    With ``boxes`` its blocks see the tokens box by box. ``require_steps`` is called where a
    generation begins, and may raise. ``is_strict``: see Trajectory. Each SparseLinearAttention
    becomes the submodule ``sla`` of its self-attention.
    """
    hook = TransformerHook(
        *(transformer, modules, attentions, num_train_timesteps, boxes, require_steps, is_strict)
    )
    HookRegistry.check_if_exists_or_initialize(transformer).register_hook(hook, _HOOK)


def remove(transformer: ModelMixin) -> None:
    """Undoes install, and leaves the hooks of others alone."""
    before = hook_of(transformer).attributes_before
    registry = transformer._diffusers_hook
    registry.remove_hook(_HOOK, recurse=False)
    if "_diffusers_hook" not in before and not registry.hooks:
        del transformer._diffusers_hook
    has_own_forward = getattr(transformer.forward, "__func__", None) is type(transformer).forward
    if "forward" not in before and has_own_forward:
        del transformer.forward


def _video_of(transformer: nn.Module, hidden_states: Any, *_args: Any, **_kwargs: Any) -> Any:
    """Frames, rows and columns of the tokens of a call, where patches are those of a video."""
    patch = getattr(transformer.config, "patch_size", None)
    if not isinstance(patch, (list, tuple)) or len(patch) != 3 or hidden_states.ndim != 5:
        return None
    return tuple(n // p for n, p in zip(hidden_states.shape[2:], patch, strict=True))


def _timestep_of(hidden_states: Any, timestep: Any, *_args: Any, **_kwargs: Any) -> float:
    """The timestep of a call with a transformer's arguments.

    A tensor [batch, tokens] has 0 for tokens that are given, such as those of a first frame: the
    largest is that of the others.
    """
    return float(torch.as_tensor(timestep).max())

"""A CUDA device that is pretended: where there is no GPU, it tells whether code puts everything where it belongs.

A tensor "on cuda" says that it is on cuda:0 and keeps its values on the CPU, so that results are the CPU's to the last
bit. What CUDA refuses is refused: operations on tensors of two devices, generators of the other device. What makes the
host wait for the device is counted with the line that asks for it, and so are the kernels that are started.

So are operations that give other bits every time on CUDA. It cannot tell whether a kernel exists or rounds as the
CPU's does.
"""

import collections
import contextlib
import sys
import threading
from unittest import mock

import torch
from torch.optim import optimizer as torch_optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

aten = torch.ops.aten
BETWEEN_DEVICES = {aten._to_copy.default, aten.copy_.default, aten._copy_from.default}
"""Operations whose two tensors may be on two devices."""
BY_INDEX = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""Operations whose indices may be on the CPU: they are moved, which is waited for."""
NO_SCALARS = {aten.cat.default, aten.stack.default, aten.mm.default, aten.bmm.default, aten.addmm.default}
"""Operations that take no number from the CPU where they take a tensor."""
SIZED_BY_VALUES = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount", "repeat_interleave"),
    *("unique_dim", "_unique2", "unique_consecutive"),
}
"""Operations whose result, or its size, the host has to know: it waits."""
NO_KERNEL = {
    *("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "lift_fresh", "_local_scalar_dense"),
    *("_unsafe_view", "_reshape_alias"),
}

NOT_DETERMINISTIC = {
    *(f"grid_sampler_{dimensions}d_backward" for dimensions in (2, 3)),
    *(f"upsample_{kind}_backward" for kind in ("linear1d", "bilinear2d", "bicubic2d", "trilinear3d")),
    *("_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward"),
    *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "avg_pool3d_backward"),
    *("adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward"),
    *("fractional_max_pool2d_backward", "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d"),
    *(f"reflection_pad{dimensions}d_backward" for dimensions in (1, 2, 3)),
    *("nll_loss2d_forward", "nll_loss2d_backward", "_ctc_loss_backward", "put_", "put", "histc", "kthvalue"),
}
"""Operations that have no deterministic form on CUDA (`torch.use_deterministic_algorithms`); also a bincount with
weights and a median with indices."""

GIGABYTE = 1 << 30
DRIVER = {
    "_lazy_init": lambda: None,
    "is_initialized": lambda: True,
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_name": lambda *_: "Pretended GPU",
    "get_device_capability": lambda *_: (8, 0),
    "empty_cache": lambda: None,
    "is_current_stream_capturing": lambda: False,
    "mem_get_info": lambda *_: (15 * GIGABYTE, 16 * GIGABYTE),
    "set_per_process_memory_fraction": lambda *_: None,
    "get_per_process_memory_fraction": lambda *_: 1.0,
    "reset_peak_memory_stats": lambda *_: None,
    "memory_allocated": lambda *_: GIGABYTE,
    "max_memory_allocated": lambda *_: GIGABYTE,
    "memory_reserved": lambda *_: GIGABYTE,
    "max_memory_reserved": lambda *_: GIGABYTE,
}
"""What ``torch.cuda`` answers without a driver."""

_here = threading.local()


class OnCuda(torch.Tensor):
    """A tensor on the pretended device; ``held`` has its values."""

    @staticmethod
    def __new__(cls, held):
        # For C++ its device is one that is not the CPU and whose autograd needs no driver.
        shape, layout = held.shape, {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=held.dtype, device="lazy", **layout)
        made.held = held
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)

    def __repr__(self, *, tensor_contents=None):
        return f"OnCuda({self.held})"

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        device = getattr(_here, "device", None)
        assert device is not None, "a tensor of a pretended device outlived it"
        return device.run(operation, args, kwargs or {})


class PlacedGenerator(torch.Generator):
    """A generator that says on which device it is; its numbers are the CPU's."""

    of = {}  # noqa: RUF012 - by address, as an operation sees another Python object of the same generator

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        cls.of[made._cdata] = CUDA if is_cuda(device) else CPU
        return made

    @property
    def device(self):
        return self.of[self._cdata]


class Numbered(TorchFunctionMode):
    """Gives "cuda" its number: torch would ask the driver for it."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.cuda:
            function, args, kwargs = torch.Tensor.to, (args[0], CUDA), {}
        args = [CUDA if is_cuda(value) else value for value in args]
        return function(*args, **{name: CUDA if is_cuda(value) else value for name, value in (kwargs or {}).items()})


class PretendedCuda(TorchDispatchMode):
    """The device, while it is entered: ``waits`` counts (what, "file.py:line"), ``kernels`` operations.

    ``moves`` counts copies from page-locked memory that are asked for as ``non_blocking``: nobody waits for them.
    """

    def __init__(self, source):
        """Name lines of the files under the folder ``source`` alone."""
        super().__init__()
        self.source = f"{source}/"
        self.waits, self.kernels, self.moves = collections.Counter(), collections.Counter(), 0

    def forget(self):
        """Count from zero."""
        self.waits.clear()
        self.kernels.clear()
        self.moves = 0

    def __enter__(self):
        if getattr(_here, "device", None) is None:  # torch leaves and enters a mode around every call
            self.changed = contextlib.ExitStack()
            change = self.changed.enter_context
            for name, answer in {**DRIVER, "synchronize": lambda *_: self.wait("synchronize")}.items():
                change(mock.patch.object(torch.cuda, name, answer))
            change(mock.patch.object(torch, "Generator", PlacedGenerator))
            foreach = [*torch_optimizer._foreach_supported_types, OnCuda]
            change(mock.patch.object(torch_optimizer, "_foreach_supported_types", foreach))
            change(torch.backends.cudnn.flags(enabled=False))  # batch norm would ask for cuDNN's kernels
            change(Numbered())
            self._set(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
            before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
            self.changed.callback(lambda: torch.use_deterministic_algorithms(before[0], warn_only=before[1]))
            torch.use_deterministic_algorithms(False)  # as a process begins, whatever ran in this one before
            conversion = torch.__future__
            self._set(
                conversion.set_overwrite_module_params_on_conversion,
                conversion.get_overwrite_module_params_on_conversion(),
            )
            _here.device = self
        return super().__enter__()

    def _set(self, switch, before):
        """Turn a switch of torch on until the device is left."""
        switch(True)
        self.changed.callback(switch, before)

    def __exit__(self, *error):
        leaving = super().__exit__(*error)
        if all(mode is not self for mode in _get_current_dispatch_mode_stack()):
            self.changed.close()
            _here.device = None
        return leaving

    def wait(self, what):
        """Count a wait at the innermost line of the source."""
        frame = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(self.source):
            frame = frame.f_back
        place = f"{frame.f_code.co_filename.removeprefix(self.source)}:{frame.f_lineno}" if frame else ""
        self.waits[what, place] += 1

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        foreign = [kind for kind in types if kind not in (torch.Tensor, OnCuda, torch.nn.Parameter)]
        if any(issubclass(kind, torch.Tensor) for kind in foreign):
            return NotImplemented  # a class of the project's own: it comes back with the tensors that it holds
        return self.run(operation, args, kwargs or {})

    def run(self, operation, args, kwargs):
        """Run an operation on the values that its tensors hold, or refuse it as CUDA would."""
        name = operation._schema.name.removeprefix("aten::")
        tensors = list(tensors_in((args, kwargs)))
        ours = [tensor for tensor in tensors if isinstance(tensor, OnCuda)]
        asked = kwargs.get("device")
        on_meta = any(not isinstance(one, OnCuda) and one.device.type == "meta" for one in tensors)
        if on_meta or (asked is not None and torch.device(asked).type == "meta"):
            return operation(*held(args), **held(kwargs))  # shapes alone
        on_cpu = torch.device(asked).type == "cpu" if asked is not None else not ours  # C++ asks for its own name
        goes = CPU if on_cpu else CUDA
        self._refuse(operation, args, kwargs, tensors, ours, goes)
        plain_args, plain_kwargs = held(args), held(kwargs)
        if asked is not None:
            plain_kwargs["device"] = CPU
        self._count(operation, name, args, kwargs, tensors, ours, goes)
        pinned = plain_kwargs.pop("pin_memory", None)  # page-locked memory needs a driver
        if operation is aten._to_copy.default:
            plain_kwargs.pop("non_blocking", None)
            plain_kwargs.setdefault("dtype", plain_args[0].dtype)
        found = operation(*plain_args, **plain_kwargs)
        if pinned:
            found.page_locked = True
        written = [argument for argument in operation._schema.arguments if is_written(argument)]
        returns = operation._schema.returns
        if returns and returns[0].alias_info is not None and returns[0].alias_info.is_write:
            places = {argument.name: index for index, argument in enumerate(operation._schema.arguments)}
            same = [
                kwargs[one.name] if one.name in kwargs else args[places[one.name]]
                for one in written
                if one.name in kwargs or places[one.name] < len(args)
            ]
            return same[0] if len(returns) == 1 else tuple(same)
        return placed(found) if goes == CUDA else found

    def _count(self, operation, name, args, kwargs, tensors, ours, goes):
        if ours and name in SIZED_BY_VALUES:
            self.wait(name)
        if operation in BY_INDEX and isinstance(args[0], OnCuda):
            indices = [index for index in args[1] if index is not None]
            if any(not isinstance(one, OnCuda) or one.dtype in (torch.bool, torch.uint8) for one in indices):
                self.wait(name)
        if operation is aten._to_copy.default and goes != (CUDA if ours else CPU):
            if goes == CUDA and kwargs.get("non_blocking") and getattr(args[0], "page_locked", False):
                self.moves += 1
            else:
                self.wait("host to device" if goes == CUDA else "device to host")
        elif operation in BETWEEN_DEVICES and len(tensors) == 2 and len(ours) == 1:
            self.wait("host to device" if isinstance(args[0], OnCuda) else "device to host")
        if (ours or goes == CUDA) and not operation.is_view and name not in NO_KERNEL:
            self.kernels[name] += 1

    def _refuse(self, operation, args, kwargs, tensors, ours, goes):
        name = operation._schema.name.removeprefix("aten::")
        weighed = (name == "bincount" and len(tensors) > 1) or operation is aten.median.dim
        if ours and (name in NOT_DETERMINISTIC or weighed):
            raise RuntimeError(f"{operation} does not have a deterministic implementation on CUDA")
        drawn = kwargs.get("generator")
        if drawn is not None and (source := PlacedGenerator.of.get(drawn._cdata, CPU)) != goes:
            raise RuntimeError(f"Expected a '{goes}' device type for generator but found '{source}' ({operation})")
        if not ours or len(ours) == len(tensors) or operation in BETWEEN_DEVICES:
            return
        if operation in BY_INDEX and isinstance(args[0], OnCuda):
            values = [value for value in args[2:3] if isinstance(value, torch.Tensor)]
            if all(isinstance(value, OnCuda) or value.dim() == 0 for value in values):
                return
        schema = operation._schema.arguments
        written = {id(value) for value, argument in zip(args, schema, strict=False) if is_written(argument)}
        for tensor in tensors:
            number = tensor.dim() == 0 and id(tensor) not in written and operation not in NO_SCALARS
            if not isinstance(tensor, OnCuda) and not number:
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu "
                    f"({operation}; the one on the CPU is {tuple(tensor.shape)})"
                )


def tensors_in(value):
    """Yield the tensors of an operation's arguments. (torch's own walker takes most of a test's time.)"""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors_in(one)


def held(value):
    """Return arguments with the values that tensors on the device hold, in lists and dictionaries of their own."""
    if isinstance(value, OnCuda):
        return value.held
    if isinstance(value, list | tuple):
        return [held(one) for one in value]
    return {name: held(one) for name, one in value.items()} if isinstance(value, dict) else value


def placed(found):
    """Return what an operation has found, on the device."""
    if isinstance(found, torch.Tensor):
        return OnCuda(found)
    return type(found)(map(placed, found)) if isinstance(found, list | tuple) else found


def is_cuda(value):
    """Whether a value names the device."""
    if isinstance(value, torch.device):
        return value.type == "cuda"
    return isinstance(value, str) and value.partition(":")[0] == "cuda"


def is_written(argument):
    """Whether an operation writes into an argument of its schema."""
    return argument.alias_info is not None and argument.alias_info.is_write

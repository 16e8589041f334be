"""What a value is, by its content: for programs that equal functions share, and stores that mistake none for another.

A function is its code, defaults, closure, attributes and the globals that its code names, each by content again; what
an installed package defines is its name. What can't be told surely is refused, never guessed.
"""

import builtins
import dis
import hashlib
import importlib.util
import sys
import types
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from ufm._core.checks import shown

ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
INSTALLED = ("/site-packages/", "/dist-packages/")
UNSHARED = (tuple, frozenset, np.ndarray, np.generic, jax.Array)  # whose content alone matters, and which hold no cycle
# of a class's namespace: what says nothing of its behaviour
SKIPPED = (
    *("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__", "__annotate__"),
    *("__annotate_func__", "__annotations_cache__", "__firstlineno__", "__static_attributes__", "__match_args__"),
    *("__dataclass_fields__", "__dataclass_params__", "__abstractmethods__", "_abc_impl", "__orig_bases__"),
)


class Unidentified(ValueError):
    """A value that can't be told from another of the same kind."""


def identity(value: Any) -> str:
    """A digest of `value`'s content, types included; equal content gives equal digests, in every process.

    Raises:
        Unidentified: where the content can't be read: generators, open files, objects with hidden state.
    """
    return _Walk().digest(value)


def described(value: Any, versions: dict[str, str]) -> str:
    """`value` in words, with its digest; versions of the packages it refers to are put into `versions`.

    Raises:
        Unidentified: as `identity`.
    """
    walk = _Walk()
    digest = walk.digest(value)
    versions.update({name: _version(name) for name in sorted(walk.packages)})
    module, name = _names(value if hasattr(value, "__qualname__") else type(value))
    return f"{name.rpartition('.')[2]} (content {digest[:16]}) of {module}"


class ByContent:
    """A static argument of compiled programs, which those of equal content share.

    Where the content can't be told surely, it is equal to nothing but the same object.

    Args:
        value: what it stands for.
    """

    def __init__(self, value: Any):
        self.value = value
        try:
            self._key: str | int = identity(value)
        except Unidentified:
            self._key = id(value)

    def holding(self, value: Any) -> "ByContent":
        """The same for another value, of which it is known that its content is equal."""
        other = object.__new__(ByContent)
        other.value, other._key = value, self._key
        return other

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, ByContent) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


class _Walk:
    """One pass over a value; what is met again is the number of its first meeting, so that cycles end."""

    def __init__(self):
        self.packages: set[str] = set()
        self._met: dict[int, int] = {}
        self._held: list[Any] = []  # so that no address is used twice

    def digest(self, value: Any) -> str:
        try:
            return hashlib.sha256(repr(self.of(value)).encode()).hexdigest()
        except RecursionError:
            raise Unidentified(f"{shown(value)}: nested too deeply to be identified by its content") from None

    def of(self, value: Any) -> Any:
        """Nested tuples and lists of text and numbers."""
        if type(value) in ATOMS:
            return type(value).__name__, repr(value)
        if id(value) in self._met:
            return "met", self._met[id(value)]
        if not isinstance(value, UNSHARED):
            self._met[id(value)] = len(self._met)
        self._held.append(value)
        if self._package_of(value) is not None and _found(value):
            return "named", *_names(value)
        return type(value).__name__, *self._content(value)

    def _content(self, value: Any) -> Iterable[Any]:
        for kinds, read in self._readers():
            if isinstance(value, kinds):
                return read(value)
        if type(value) is np.ndarray:
            return self._array(value)
        if type(value) in (tuple, list):
            return [self.of(item) for item in value]
        if type(value) in (set, frozenset):
            return sorted(_Walk().digest(item) for item in value)
        if type(value) in (dict, types.MappingProxyType):
            return [[self.of(key), self.of(item)] for key, item in _in_order(value)]
        if type(value).__name__ in ("PjitFunction", "_lru_cache_wrapper"):  # which give what they wrap
            return [self.of(value.__wrapped__)]
        return self._object(value)

    def _readers(self):
        return (
            (jax.Array, self._jax_array),
            (np.generic, lambda number: self._array(np.asarray(number))),
            (types.FunctionType, self._function),
            (types.MethodType, lambda method: [self.of(method.__func__), self.of(method.__self__)]),
            (types.BuiltinMethodType, lambda method: [method.__name__, self.of(method.__self__)]),
            (types.CodeType, self._code),
            (types.ModuleType, lambda module: self._module(module, ())),
            (type, self._class),
            (property, lambda member: [self.of(each) for each in (member.fget, member.fset, member.fdel)]),
            ((staticmethod, classmethod), lambda member: [self.of(member.__func__)]),
            ((types.MemberDescriptorType, types.GetSetDescriptorType), lambda member: [member.__name__]),
        )

    def _jax_array(self, array):
        if isinstance(array, Tracer):
            raise Unidentified(f"{shown(array)}: a number that is being traced, which has no content yet")
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
            return [str(array.dtype), *self._array(np.asarray(jax.random.key_data(array)))]
        return [array.weak_type, *self._array(np.asarray(array))]

    def _array(self, array):
        if array.dtype.hasobject:
            return [array.shape, *(self.of(item) for item in array.ravel().tolist())]
        return [str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).hexdigest()]

    def _function(self, function):
        """The globals are those that its code, or code within it, looks up."""
        code = function.__code__
        attributes = {name for each in _codes(code) for name in each.co_names}
        yield from (*_names(function), self._code(code))
        yield from (self.of(function.__defaults__), self.of(function.__kwdefaults__))
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            yield name, self._referred(_contents(cell), attributes)
        yield self.of({name: each for name, each in vars(function).items() if name != "__wrapped__"})
        if self._package(function.__globals__) is None:
            yield from self._globals(function, attributes)

    def _globals(self, function, attributes):
        for lookup, name in _lookups(function.__code__):
            if lookup == "IMPORT_NAME":
                yield name, self._imported(name, function.__globals__, attributes)
            elif name in function.__globals__:
                yield name, self._referred(function.__globals__[name], attributes)
            elif not hasattr(builtins, name):
                yield name, "undefined"

    def _imported(self, name, namespace, attributes):
        """A module that a function imports when it is called."""
        module = sys.modules.get(name) or sys.modules.get(f"{namespace.get('__package__')}.{name}")
        if module is not None:
            return self._referred(module, attributes)
        spec = importlib.util.find_spec(name.partition(".")[0]) if name else None
        if spec is None or self._package({"__name__": name, "__file__": spec.origin}) is None:
            raise Unidentified(f"the module {name!r}, which is imported only when a function is called")
        return "named", name

    def _referred(self, value, attributes):
        """What a function refers to; of a user's module, what it may read there."""
        if isinstance(value, types.ModuleType) and self._package(vars(value)) is None:
            return "module", *self._module(value, attributes)
        return self.of(value)

    def _module(self, module, attributes):
        if not attributes:
            raise Unidentified(f"{shown(module)}: a module that isn't an installed package's")
        read = sorted(name for name in attributes if hasattr(module, name))
        return [module.__name__, *([name, self._referred(getattr(module, name), attributes)] for name in read)]

    def _code(self, code):
        consts = [self.of(const) for const in code.co_consts]
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
        shape = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
        return code.co_code, code.co_exceptiontable, consts, names, shape

    def _class(self, cls):
        yield from (*_names(cls), [self.of(base) for base in cls.__bases__])
        for name, member in sorted(vars(cls).items()):
            # what a dataclass generates follows from its fields
            generated = getattr(getattr(member, "__code__", None), "co_qualname", "").startswith("__create_fn__")
            if name not in SKIPPED and not generated:
                yield name, self.of(member)

    def _object(self, value):
        """What pickle would take, which refuses objects whose state Python can't see."""
        try:
            reduced = value.__reduce_ex__(2)
        except Exception as error:  # whatever somebody's object raises
            raise Unidentified(f"{shown(value)}: a {type(value).__qualname__}, whose content can't be read") from error
        if isinstance(reduced, str):
            return self._global(value, reduced)
        return [self.of(list(part) if isinstance(part, Iterator) else part) for part in reduced]

    def _global(self, value, name):
        """What pickle would take by its name, which tells enough of what an installed package defines."""
        module = sys.modules.get(getattr(value, "__module__", None) or "")
        if getattr(module, name, None) is not value or self._package(vars(module)) is None:
            raise Unidentified(f"{shown(value)}: a {type(value).__qualname__}, whose content can't be read")
        return [str(value.__module__), name]

    def _package_of(self, value):
        """The installed package that defines a function, class or module, else None."""
        if isinstance(value, types.FunctionType):
            return self._package(value.__globals__)
        if isinstance(value, types.ModuleType):
            return self._package(vars(value))
        module = getattr(value, "__module__", None) if hasattr(value, "__qualname__") else None
        return self._package(vars(sys.modules[module])) if module in sys.modules else None

    def _package(self, namespace):
        package = _package(namespace.get("__name__"), namespace.get("__file__"))
        if package is not None:
            self.packages.add(package)
        return package


def _package(name: Any, file: Any) -> str | None:
    """The installed package, or Python's own library, that a module belongs to; None where it is the user's own."""
    top = str(name).partition(".")[0]
    file = file or getattr(sys.modules.get(top), "__file__", None)  # compiled modules needn't say
    if top == "ufm" or any(folder in str(file).replace("\\", "/") for folder in INSTALLED):
        return top
    return "python" if top in sys.stdlib_module_names and top != "__main__" else None


def _version(package: str) -> str:
    if package == "python":
        return ".".join(map(str, sys.version_info[:2]))
    known = getattr(sys.modules.get(package), "__version__", None)
    return known if isinstance(known, str) else metadata.version(package)


def _names(value: Any) -> tuple[str, str]:
    """Module and name within it."""
    if isinstance(value, types.ModuleType):
        return value.__name__, ""
    return str(getattr(value, "__module__", None)), str(getattr(value, "__qualname__", type(value).__qualname__))


def _found(value: Any) -> bool:
    """Whether a value is what its name stands for; compiled packages hide some of their classes."""
    module, name = _names(value)
    if isinstance(value, type) and "<locals>" not in name:
        return True
    found = sys.modules.get(module)
    for part in name.split(".") if name else ():
        found = getattr(found, part, None)
    return found is value


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "nothing yet"


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code and all code within it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _codes(const)


def _lookups(code: types.CodeType) -> list[tuple[str, str]]:
    """How and which names are looked up outside the code and the code within it."""
    ways = ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME")
    found = (step for each in _codes(code) for step in dis.get_instructions(each))
    return sorted({(step.opname, step.argval) for step in found if step.opname in ways})


def _in_order(table: Any) -> list[tuple[Any, Any]]:
    """Entries, sorted by name where all keys are text, since how a table was filled makes no difference."""
    entries = list(table.items())
    return sorted(entries, key=lambda entry: entry[0]) if all(isinstance(key, str) for key in table) else entries

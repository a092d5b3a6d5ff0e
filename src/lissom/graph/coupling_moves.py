"""Rules for operators that move values: views, permutations, concatenations, splits, expansions, selections."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

from torch.fx import Node as FxNode

from lissom.graph.axes import Axes, Fixed, Term, cat, product
from lissom.graph.coupling import Call, Terms, Value, fresh, shape_of
from lissom.graph.parts import entries


def same(call: Call) -> Value:
    """What comes out is the first tensor itself, or another of its shape and channels."""
    return call.every()[0]


def reshape(call: Call) -> Value:
    return regroup(call.axes, call.every()[0], call.shape)


def regroup(axes: Axes, source: Terms, shape: tuple[int, ...]) -> Terms:
    """The axes after a reshape: the shortest runs of axes with equal products are merged and divided again."""
    found: list[Term] = []
    i = j = 0
    while i < len(source) or j < len(shape):
        run = [source[i]] if i < len(source) else []
        sizes = [shape[j]] if j < len(shape) else []
        i, j = i + len(run), j + len(sizes)
        have, want = prod(t.size for t in run), prod(sizes)
        while have != want:
            if have < want and i < len(source):
                run.append(source[i])
                have, i = have * source[i].size, i + 1
            elif j < len(shape):
                sizes.append(shape[j])
                want, j = want * shape[j], j + 1
            else:
                break
        if 0 in sizes or have != want:
            for term in run:
                axes.freeze(term)
            found += [Fixed(size) for size in sizes]
        elif len(run) == 1 and len(sizes) == 1:
            found += run
        else:
            found += axes.divide(product(run), sizes)
    return tuple(found)


def permute(call: Call) -> Value:
    source = call.need("self")
    return tuple(source[at] for at in call.numbers("dims"))


def transpose(call: Call) -> Value:
    source = list(call.need("self"))
    names = ("dim0", "dim1") if "dim0" in call.given else ("axis0", "axis1")
    a, b = (call.axis(name, len(source)) for name in names)
    source[a], source[b] = source[b], source[a]
    return tuple(source)


def reverse(call: Call) -> Value:
    return tuple(reversed(call.every()[0]))


def transpose_last(call: Call) -> Value:
    source = call.every()[0]
    return (*source[:-2], source[-1], source[-2])


def movedim(call: Call) -> Value:
    source = call.need("self")
    start = [at % len(source) for at in call.numbers("source")]
    goal = [at % len(source) for at in call.numbers("destination")]
    others = iter([term for at, term in enumerate(source) if at not in start])
    placed = dict(zip(goal, start, strict=True))
    return tuple(source[placed[at]] if at in placed else next(others) for at in range(len(source)))


def expand(call: Call) -> Value:
    """Axes of one place that are repeated become axes of their own: nothing else is known about them."""
    source, shape = call.every()[0], call.shape
    ahead = len(shape) - len(source)
    return tuple(
        source[at - ahead] if at >= ahead and source[at - ahead].size == size else fresh(size)
        for at, size in enumerate(shape)
    )


def repeat(call: Call) -> Value:
    source, times = list(call.need("self")), call.numbers("repeats" if "repeats" in call.given else "dims")
    rank = max(len(source), len(times))
    source = [Fixed(1)] * (rank - len(source)) + source
    times = [1] * (rank - len(times)) + times
    return tuple(
        fresh(n) if term.size == 1 else product([Fixed(n), term]) for term, n in zip(source, times, strict=True)
    )


def repeat_interleave(call: Call) -> Value:
    source = list(call.need("self"))
    if not isinstance(call.given.get("repeats"), int) or call.given.get("dim") is None:
        return unknown(call)
    at = call.axis("dim", len(source))
    source[at] = product([source[at], Fixed(call.number("repeats"))])
    return tuple(source)


def concatenate(call: Call) -> Value:
    sources = [terms for terms in call.tensors("tensors") if len(terms) == len(call.shape)]
    at = call.axis("dim", len(call.shape))
    first = list(sources[0])
    for other in sources[1:]:
        for index, (a, b) in enumerate(zip(first, other, strict=True)):
            if index != at:
                call.unify(a, b)
    single = len(sources) == call.shape[at] == len(cast(Sequence[object], call.given["tensors"]))
    first[at] = _side_by_side(call, len(sources)) if single else cat([terms[at] for terms in sources])
    return tuple(first)


def _side_by_side(call: Call, count: int) -> Term:
    """Modules that can be left out one by one, or values that are simply there."""
    if not entries(call.node):
        return Fixed(count)
    axis = fresh(count)
    call.axes.at_least(axis, 1, "modules stacked along it are grouped")
    return axis


def stack(call: Call) -> Value:
    sources = call.tensors("tensors")
    for other in sources[1:]:
        for a, b in zip(sources[0], other, strict=True):
            call.unify(a, b)
    found = list(sources[0])
    found.insert(call.axis("dim", len(found) + 1), _side_by_side(call, len(sources)))
    return tuple(found)


def split(call: Call) -> Value:
    source = call.every()[0]
    at = call.axis("dim", len(source))
    made = cast(list[object], call.node.meta["val"])
    pieces = call.axes.cut(source[at], [shape_of(one)[at] for one in made])
    return [(*source[:at], piece, *source[at + 1 :]) for piece in pieces]


def unbind(call: Call) -> Value:
    source = call.need("self")
    at = call.axis("dim", len(source))
    call.freeze(source[at])
    return [(*source[:at], *source[at + 1 :])] * source[at].size


def select(call: Call) -> Value:
    source = call.need("self")
    at = call.axis("dim", len(source))
    call.freeze(source[at])
    return (*source[:at], *source[at + 1 :])


def narrow(call: Call) -> Value:
    """`slice`, `narrow`: a run of an axis."""
    source = list(call.need("self"))
    at = call.axis("dim", len(source))
    size, length = source[at].size, call.shape[at]
    step = call.given.get("step") or 1
    if length == size:
        return tuple(source)
    if step != 1:
        call.freeze(source[at])
        source[at] = Fixed(length)
        return tuple(source)
    start = call.number("start") if call.given.get("start") is not None else 0
    start = min(max(start + size if start < 0 else start, 0), size)
    source[at] = call.axes.cut(source[at], [start, length, size - start - length])[1]
    return tuple(source)


def roll(call: Call) -> Value:
    source = call.need("self")
    for at in call.numbers("dims"):
        call.freeze(source[at % len(source)])
    return source if call.numbers("dims") else _all_frozen(call, source)


def pad(call: Call) -> Value:
    """Zeros around an axis are channels as well: a shortcut that grows by them meets a convolution's."""
    source, amounts = list(call.need("self")), call.numbers("pad")
    for index in range(len(amounts) // 2):
        at = len(source) - 1 - index
        before, after = amounts[2 * index : 2 * index + 2]
        if not before and not after:
            continue
        constant = call.given.get("mode", "constant") == "constant"
        if before < 0 or after < 0 or not constant or isinstance(call.axes.look(source[at]), Fixed):
            call.freeze(source[at])
            source[at] = Fixed(source[at].size + before + after)
        else:
            source[at] = cat([fresh_or_none(before), source[at], fresh_or_none(after)])
    return tuple(source)


def fresh_or_none(size: int) -> Term:
    return fresh(size) if size else Fixed(0)


def index(call: Call) -> Value:
    """Advanced indexing: the indexed axes lose their channels, the others keep theirs."""
    source = call.need("self")
    indices = cast(list[FxNode | None], list(call.given["indices"]))
    indices += [None] * (len(source) - len(indices))
    named = [at for at, one in enumerate(indices) if one is not None]
    wide = any(_is_mask(one) for one in indices)
    for at in named:
        looked_up(call, source[at], indices[at])
        for term in call.terms_of(indices[at]) or ():
            call.freeze(term)
    rest = [term for at, term in enumerate(source) if indices[at] is None]
    if wide:
        call.freeze(*rest)
        return call.fixed()
    made = len(call.shape) - len(rest)
    # Neighbouring indices leave their result in place; else it comes first.
    together = named == list(range(named[0], named[0] + len(named)))
    ahead = sum(1 for at in range(named[0]) if indices[at] is None) if together else 0
    fixed = [Fixed(size) for size in call.shape[ahead : ahead + made]]
    return (*rest[:ahead], *fixed, *rest[ahead:])


def looked_up(call: Call, term: Term, index: object, reason: str | None = None) -> None:
    """An axis that is read at numbered places stays whole, unless the numbers are known to count on it."""
    counted = call.pointer(index)
    if counted is None:
        call.freeze(term, reason=reason)
    else:
        call.unify(term, counted)


def _is_mask(one: FxNode | None) -> bool:
    return one is not None and str(getattr(one.meta.get("val"), "dtype", "")) in ("torch.bool", "torch.uint8")


def index_select(call: Call) -> Value:
    source = list(call.need("self"))
    at = call.axis("dim", len(source))
    looked_up(call, source[at], call.given["index"])
    source[at] = Fixed(call.shape[at])
    return tuple(source)


def embedding(call: Call) -> Value:
    rows, width = call.need("weight")
    looked_up(call, rows, call.given["indices"], "its rows are looked up by index")
    return (*call.need("indices"), width)


def pixel_shuffle(call: Call) -> Value:
    source, r = call.need("self"), call.number("upscale_factor")
    outer, inner = call.axes.divide(source[-3], [source[-3].size // (r * r), r * r])
    call.freeze(inner)
    return (*source[:-3], outer, *call.fixed()[-2:])


def pixel_unshuffle(call: Call) -> Value:
    source, r = call.need("self"), call.number("downscale_factor")
    return (*source[:-3], product([source[-3], Fixed(r * r)]), *call.fixed()[-2:])


def channel_shuffle(call: Call) -> Value:
    source, groups = list(call.need("self")), call.number("groups")
    rows, columns = call.axes.divide(source[1], [groups, source[1].size // groups])
    source[1] = product([columns, rows])
    return tuple(source)


def im2col(call: Call) -> Value:
    source = call.need("self")
    call.freeze(source[-1], source[-2])
    window = prod(call.numbers("kernel_size"))
    return (*source[:-3], product([source[-3], Fixed(window)]), Fixed(call.shape[-1]))


def col2im(call: Call) -> Value:
    source = call.need("self")
    window = prod(call.numbers("kernel_size"))
    channels, inner = call.axes.divide(source[-2], [source[-2].size // window, window])
    call.freeze(inner, source[-1])
    return (*source[:-2], channels, *call.fixed()[-2:])


def unfold(call: Call) -> Value:
    source = list(call.need("self"))
    at = call.axis("dimension", len(source))
    call.freeze(source[at])
    source[at] = Fixed(call.shape[at])
    return (*source, Fixed(call.shape[-1]))


def fill(call: Call) -> Value:
    """A new tensor, the same in all places."""
    return tuple(fresh(size) for size in call.shape)


def counted(call: Call) -> Value:
    """A new tensor whose places all differ: none of them can be cut."""
    return call.fixed()


def like(call: Call) -> Value:
    return call.every()[0] if call.every() else call.fixed()


def squeeze(call: Call) -> Value:
    return regroup(call.axes, call.every()[0], call.shape)


def unknown(call: Call) -> Value:
    """Nothing is guessed: every axis that goes in stays as it is."""
    for terms in call.every():
        call.freeze(*terms)
    made = call.node.meta.get("val")
    if isinstance(made, (list, tuple)):
        return [tuple(Fixed(size) for size in shape_of(one)) for one in cast(list[object], made)]
    return call.fixed()


def _all_frozen(call: Call, terms: Terms) -> Terms:
    call.freeze(*terms)
    return terms

"""Ids of tables and of files: where they meet, and what does not."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from histofold.core.faults import Fault, InputNotice, listed_ids
from histofold.schema.sample import Sample, is_safe_id

MOST_NAMED = 20
"""Ids of one kind that are named one by one."""
_EXAMPLES = 3
_MONTHS = r"(jan|feb|m.?rz?|apr|ma[iy]|june?|july?|aug|sept?|o[ck]t|nov|de[cz])\.?"
_REWRITTEN = re.compile(
    rf"\d([.,]\d+)?e\+\d+|\d{{12,}}0{{3,}}|\d{{1,2}}[-. ]{_MONTHS}|{_MONTHS}[- ]\d{{2,4}}", re.IGNORECASE
)
"""Ids that a spreadsheet took for numbers, 1.00E+05 or 18 digits of which 15 are left, or for dates, 4-Mar."""
_SUFFIX = re.compile(r"(\.ome)?\.(tiff?|png|jpe?g|bmp|jp2|svs|ndpi|mrxs|scn|vsi|czi|bif|qptiff|dcm)$")
_NOTHING_KNOWN = ("", "nan", "na", "n/a", "none", "null", "unknown", "?", "#n/a", "-", "--", ".", "tbd", "n.a.")


def plain_id(text: str) -> str:
    """An id as it is compared where a table spells it otherwise than the file.

    In Unicode's composed form and lower case, without folder `images/`, suffix of an image or of the slide that it was
    cut from, leading zeros, and the `.0` that a spreadsheet adds.
    """
    name = unicodedata.normalize("NFC", text).strip().casefold().removeprefix("./").removeprefix("images/")
    name = _SUFFIX.sub("", name)
    number = re.fullmatch(r"0*(\d+)(\.0+)?", name)
    return number[1] if number else name


def _last_part(text: str) -> str:
    return plain_id(text.rpartition("/")[2])


def meet_ids(path: Path, keys: Iterable[str], images: Iterable[str]) -> tuple[dict[str, str], list[Fault]]:
    """Which image each id of a table means.

    Equal ids first; of the others those whose `plain_id`, or the last part of it, is that of one image and of one id
    alone.

    Args:
        path: The table, for the notice.
        keys: Its ids.
        images: The ids of the images.

    Returns:
        The image of each id that has one, and a notice of those that are spelled otherwise.
    """
    wanted, known = list(dict.fromkeys(keys)), list(dict.fromkeys(images))
    there = set(known)
    meant = {key: key for key in wanted if key in there}
    forms: tuple[Callable[[str], str], ...] = (plain_id, _last_part)
    for form in forms:
        waiting = {key: form(key) for key in wanted if key not in meant}
        if not waiting:
            break
        forms_of = {image: form(image) for image in known}
        of_keys, of_images, taken = Counter(waiting.values()), Counter(forms_of.values()), set(meant.values())
        free = {each: image for image, each in forms_of.items() if image not in taken and of_images[each] == 1}
        meant |= {key: free[each] for key, each in waiting.items() if each in free and of_keys[each] == 1}
    otherwise = [f"{key!r} is {image!r}" for key, image in meant.items() if key != image]
    if not otherwise:
        return meant, []
    rule = f"{len(otherwise)} ids are spelled otherwise than their images: {listed_ids(otherwise, _EXAMPLES)}"
    return meant, [InputNotice("id", str(path), rule, "write them as the images are named, without suffix")]


def plain_groups(path: Path, column: str, groups: Mapping[str, str]) -> tuple[dict[str, str], list[Fault]]:
    """Patients, or groups, as they are meant: one name for `P1`, `p1 ` and `P01`, none for `nan`, `?` and `unknown`.

    Args:
        path: The table, for the notice.
        column: Name of the column.
        groups: Its cells by id.

    Returns:
        The names by id, each as it stands first, and a notice where several spellings are one.
    """
    spellings: dict[str, dict[str, None]] = {}
    forms = {key: _group_form(cell) for key, cell in groups.items()}
    for key, form in forms.items():
        spellings.setdefault(form, {})[groups[key].strip()] = None
    meant = {key: next(iter(spellings[form])) if form else "" for key, form in forms.items()}
    several = [", ".join(map(repr, found)) for form, found in spellings.items() if form and len(found) > 1]
    if not several:
        return meant, []
    rule = f"spellings of {column} that are read as one: {'; '.join(several[:_EXAMPLES])}"
    more = f" and {len(several) - _EXAMPLES} more" if len(several) > _EXAMPLES else ""
    return meant, [InputNotice(column, str(path), rule + more, "write each name in one way")]


def _group_form(text: str) -> str:
    """A name as it is compared, its numbers without leading zeros; empty where it says that nothing is known."""
    form = unicodedata.normalize("NFC", text).strip().casefold()
    form = re.sub(r"(?<![\d.])0+(?=\d)", "", re.sub(r"^(\d+)\.0+$", r"\1", re.sub(r"\s+", " ", form)))
    return "" if form in _NOTHING_KNOWN else form


def formula_notices(samples: Iterable[Sample], classes: Iterable[str] = ()) -> list[Fault]:
    """A notice of texts that a spreadsheet takes for formulas (CWE-1236), as `=HYPERLINK(...)`.

    They are written into our tables as they stand: an id that was changed would meet neither its image nor the host's.
    """
    cells = {cell: None for each in samples for cell in (each.id, each.organ, each.source, each.group)}
    cells |= dict.fromkeys(classes)
    formulas = [cell for cell in cells if re.match(r"\s*[=+\-@](?![\d.,]*$)", cell)]
    if not formulas:
        return []
    rule = f"texts that a spreadsheet runs as formulas: {listed_ids(map(repr, formulas), _EXAMPLES)}"
    remedy = "rename them, or import our tables with these columns as text"
    return [InputNotice("formula", "images", rule, remedy)]


def unmet_faults(
    path: Path, keys: Iterable[str], images: Sequence[str], meant: Mapping[str, str] | None = None
) -> list[Fault]:
    """Faults of ids of a table that are no image, and of images that the table does not name.

    Args:
        path: The table.
        keys: Ids that mean no image; those that lead out of the folder are named where they are read.
        images: Images that no id means.
        meant: The image of each other id.
    """
    lost = [key for key in dict.fromkeys(keys) if is_safe_id(key)]
    taken = {plain_id(key): key for key in meant or ()} if lost else {}
    faults = [
        Fault(key, str(path), "row without an image", _row_remedy(key, images, taken.get(plain_id(key), "")))
        for key in lost[:MOST_NAMED]
    ]
    if len(lost) > MOST_NAMED:
        faults.append(Fault(path.stem, str(path), f"{len(lost) - MOST_NAMED} more rows without an image", "drop them"))
    faults += [Fault(key, str(path), "image without a row", "add its row, or drop the image") for key in images]
    return faults


def _row_remedy(key: str, images: Sequence[str], other: str = "") -> str:
    """What mends a row of no image; `other` is a row that spells the same id otherwise and has the image."""
    if other:
        return f"it spells {other!r} otherwise, which has its row: keep one row an image"
    if _REWRITTEN.fullmatch(key):
        return "a spreadsheet rewrote it as a number or a date: format the column as text, and write the image's name"
    near = difflib.get_close_matches(key, images, 1)
    return f"is it {near[0]!r}? write the image's name" if near else "add the image, or drop the row"


def broken_links(folder: Path) -> list[Fault]:
    """Links of a folder, and of those in it, that lead nowhere."""
    return [
        Fault(path.stem, str(path), "a link to a file that is not there", "mend the link, or remove it")
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() and not path.exists()
    ]

"""What changed from one revision of a result to the next, in sentences. Profile `triage` gets no number."""

from typing import Any

from cxr_node.worklist.web.present import shown, status_word
from storage.results import Result


def changes(before: Result | None, after: Result, *, shows_probability: bool) -> tuple[str, ...]:
    """Return what `after` says that `before` did not; of the first revision what it was made of."""
    images = _images(after)
    if before is None:
        return (f"first result, of {_counted(len(images), 'image')}",)
    found: list[str] = []
    if before.status != after.status:
        found.append(f"{status_word(before.status).lower()} before, {status_word(after.status).lower()} now")
    if before.flagged != after.flagged:
        found.append("flagged now" if after.flagged else "not flagged any more; its priority stays")
    known = _images(before)
    found += [f"new image {uid}" for uid in images if uid not in known]
    found += [f"image {uid} is no longer part of it" for uid in known if uid not in images]
    for uid, image in images.items():
        if uid in known:
            found += _of_image(uid, known[uid], image)
    found += _of_findings(before, after, shows_probability=shows_probability)
    notes = {shown(str(note)) for note in before.outcome.get("notes") or []}
    found += [f"noted: {note}" for item in after.outcome.get("notes") or [] if (note := shown(str(item))) not in notes]
    return tuple(found) or ("nothing that is shown here",)


def _of_image(uid: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    was, now = before.get("exclusion"), after.get("exclusion")
    if was and not now:
        return [f"image {uid} is analysed now"]
    if now and not was:
        return [f"image {uid} is not analysed any more: {shown(str(now['message']))}"]
    if was and now and was["reason"] != now["reason"]:
        return [f"image {uid} is not analysed for another reason: {shown(str(now['message']))}"]
    return []


def _of_findings(before: Result, after: Result, *, shows_probability: bool) -> list[str]:
    was, now = _findings(before), _findings(after)
    found = []
    for key, score in now.items():
        name = f"{shown(str(key[1]))} ({shown(str(key[0]))})"
        earlier = was.get(key)
        if earlier is None:
            found.append(f"{name}: scored for the first time")
            continue
        if earlier["model_version"] != score["model_version"]:
            found.append(
                f"{name}: version {shown(earlier['model_version'])} before, {shown(score['model_version'])} now"
            )
        if shows_probability and earlier["probability"] != score["probability"]:
            found.append(f"{name}: {earlier['probability']:.3f} before, {score['probability']:.3f} now")
    found += [f"{shown(str(key[1]))} ({shown(str(key[0]))}): no longer scored" for key in was if key not in now]
    return found


def _findings(result: Result) -> dict[tuple[str, str], dict[str, Any]]:
    return {(score["model"], score["finding"]): score for score in result.outcome.get("findings") or []}


def _images(result: Result) -> dict[str, dict[str, Any]]:
    return {shown(str(image["sop_instance_uid"])): image for image in result.outcome.get("images") or []}


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"

"""What `check` found as text for a terminal."""

from siamese_diffusion.data.checked import Report
from siamese_diffusion.data.looks import Problem


def render(report: Report) -> str:
    """The report as text for a terminal; at most ten files of a kind."""
    lines = [f"{report.folder}: {report.pairs} pairs, layout: {report.layout}"]
    if report.splits:
        lines.append("splits: " + ", ".join(f"{name} {count}" for name, count in report.splits.items()))
    lines += [f"groups: {report.groups}, kept together"] if report.groups else []
    if report.sizes:
        lines.append("sizes: " + ", ".join(f"{name} {w} x {h}" for name, (w, h) in report.sizes.items()))
    if report.formats:
        lines.append("images: " + ", ".join(f"{count} {kind}" for kind, count in report.formats.items()))
    if report.masks:
        lines.append(f"masks: {report.masks}")
    if report.healthy:
        lines.append(f"healthy images (empty masks): {report.healthy} of {report.pairs}")
    if report.coverage:
        lines.append(
            "lesion share of the image: "
            + ", ".join(f"{name} {100 * value:.1f} %" for name, value in report.coverage.items())
        )
    lines += [f"note: {note}" for note in report.notes]
    kinds: dict[tuple[str, bool], list[Problem]] = {}
    for problem in report.problems:
        kinds.setdefault((problem.kind, problem.fatal), []).append(problem)
    for (kind, fatal), found in kinds.items():
        lines.append(f"{'error' if fatal else 'warning'}: {kind}, {len(found)}")
        lines += [f"    {problem.file}: {problem.detail}" for problem in found[:10]]
        if len(found) > 10:
            lines.append(f"    and {len(found) - 10} more (--json lists all)")
    lines += [] if kinds else ["no problems"]
    lines.append(f"next: {report.next}")
    return "\n".join(lines).rstrip()

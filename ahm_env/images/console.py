"""What `ahm data` shows: what is in a source, and what is wrong with it."""

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from ahm_env.console import make_console, reading
from ahm_env.images.report import check_source
from ahm_env.images.splitting import split_source


def check_data(source: str) -> int:
    """Show what is in a source of images, and everything that is wrong with it.

    Returns:
        The exit status: 0, or 2 where there are problems.
    """
    console = make_console()
    with reading(console) as report_progress:
        report = check_source(source, report_progress)
    table = Table(title=escape(source), show_header=False)
    sizes = [f"{width} x {height} ({count:,})" for (width, height), count in report.sizes.most_common(4)]
    more = len(report.sizes) - len(sizes)
    table.add_row("kind", report.kind)
    dropped = f", and {report.empty:,} slices without content" if report.empty else ""
    table.add_row("images", f"{report.images:,}{dropped}")
    if report.patients:
        table.add_row("patients", f"{report.patients:,}")
    table.add_row("sizes", ", ".join(sizes) + (f", and {more:,} more" if more else ""))
    names = {1: "grey", 3: "colour"}
    table.add_row("channels", ", ".join(f"{names[key]} ({count:,})" for key, count in sorted(report.channels.items())))
    table.add_row("pixels", ", ".join(f"{key} ({count:,})" for key, count in sorted(report.pixel_types.items())))
    values = ", ".join(map(str, report.mask_values[:8])) + (", …" if len(report.mask_values) > 8 else "")
    empty = f", {report.empty_masks:,} of them empty" if report.empty_masks else ""
    table.add_row("masks", f"{report.masks:,} with values {values}{empty}" if report.masks else "none")
    table.add_row("splits", ", ".join(f"{name} {count:,}" for name, count in report.splits.items()))
    for name, splits in sorted(report.classes.items()):
        table.add_row(f"class {escape(name)}", ", ".join(f"{split} {splits[split]:,}" for split in report.splits))
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)
    for problem in report.problems:
        console.print(f"problem: {problem}", markup=False)
    count = len(report.problems)
    console.print(f"{count:,} problem{'s' * (count != 1)}." if count else "No problem found.")
    return 2 if count else 0


def split_data(source: str, shares: dict[str, float], stratify: str | None, seed: int, again: bool) -> int:
    """Draw splits, write them into `labels.csv`, and show how many images each has.

    Returns:
        The exit status.

    Raises:
        AHMError: Anything that the user can mend.
    """
    console = make_console()
    with reading(console) as report_progress:
        counts = split_source(source, shares, stratify, seed, again, report_progress)
    told = ", ".join(f"{name} {counts[name]:,}" for name in shares)
    console.print(f"splits       {Path(source) / 'labels.csv'}: {told}; each patient in one", markup=False)
    return 0

"""Tables for terminals and for Markdown, and the page that a benchmark leaves behind."""


def text(head, rows):
    """Columns of equal width; the first is for words, the others for numbers."""
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    return "\n".join(_line(row, widths) for row in [head, *rows])


def markdown(head, rows):
    """A table of Markdown."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(title, facts, blocks):
    """A section of Markdown: facts as a list, then blocks."""
    listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    return "\n\n".join([f"## {title}", listed, *blocks]) + "\n"


def count(number):
    """`12,345`, `12.3`, `0.123`: three digits at least."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def megabytes(bytes_):
    """Bytes as `12.3 MB` of 1000."""
    return f"{bytes_ / 1e6:.1f} MB"


def yes(met):
    """Whether a bar was met; nothing where there is none."""
    return {True: "yes", False: "NO", None: "-"}[met]


def _line(row, widths):
    cells = [cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths))]
    return "  ".join(cells).rstrip()

"""Transfer Report: what happened to every module, as a picture, as text and as a file."""

from ..prolora.errors import ProLoRAError, printable
from ..prolora.files.atomic_write import write_text
from ..prolora.transfer.report_picture import draw
from ..prolora.transfer.report_text import summary_of, table_of
from . import host
from .transferred_lora import TransferredLora


class TransferReport:
    CATEGORY = host.CATEGORY
    SEARCH_ALIASES = ("LoRA report", "heat map", "skipped modules", "transfer summary")
    DESCRIPTION = (
        "Shows what a transfer did with every module: moved, copied or skipped, and how much of it "
        "was kept."
    )
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("picture", "table")
    OUTPUT_TOOLTIPS = (
        "A line for each block, a column for each module; the brighter, the more was kept.",
        "The figures as text, a line for each module.",
    )
    OUTPUT_NODE = True
    FUNCTION = "report"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "lora": (
                    "LORA_MODEL",
                    {"tooltip": "From ProLoRA Transfer or Refine Transferred LoRA."},
                ),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "Also writes all figures as a JSON file of this name into the "
                        "output folder; it may begin with a subfolder, like reports/my_style. A "
                        "number is added. Empty: no file.",
                    },
                ),
            },
        }

    def report(self, lora, filename_prefix):
        report = getattr(lora, "report", None) if isinstance(lora, TransferredLora) else None
        if report is None:
            raise ProLoRAError(
                "This LORA_MODEL has no report, because no node of ProLoRA made it. Connect the "
                "lora of ProLoRA Transfer, Refine Transferred LoRA or Extract Difference as LoRA."
            )
        said = [printable(summary_of(report))]
        if filename_prefix.strip():
            text = report.to_json() + "\n"
            path = host.write_new(
                filename_prefix.strip(),
                lambda path: write_text(path, text, overwrite=False),
                ".json",
            )
            said.insert(0, f"{host.saved_to(path)}\n")
        picture = draw(report).image
        shown = {"text": ["\n".join(said)], "images": [host.preview(picture)]}
        return {"ui": shown, "result": (host.as_image(picture), table_of(report))}

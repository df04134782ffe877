"""Nodes that give lists, as a batch of files or a series of values does."""


class _List:
    CATEGORY = "ProLoRA/tests"
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "make"


class ProbeSourceList(_List):
    RETURN_TYPES = ("PROLORA_SOURCE",)

    @classmethod
    def INPUT_TYPES(cls):
        source = ("PROLORA_SOURCE",)
        return {"required": {"first": source}, "optional": {"second": source, "third": source}}

    def make(self, **sources):
        return (list(sources.values()),)


class ProbeNumbers(_List):
    RETURN_TYPES = ("FLOAT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"numbers": ("STRING", {"default": ""})}}

    def make(self, numbers):
        return ([float(number) for number in numbers.split()],)


NODE_CLASS_MAPPINGS = {"ProbeSourceList": ProbeSourceList, "ProbeNumbers": ProbeNumbers}

"""Symbols of object files: what a compiler's output defines, and what it wants from others."""

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection


def symbols(path):
    """Return (defined, undefined): sets of names of an ELF object's global symbols."""
    defined: set[str] = set()
    undefined: set[str] = set()
    with open(path, "rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        for symbol in table.iter_symbols() if isinstance(table, SymbolTableSection) else ():
            if symbol.name and symbol["st_info"]["bind"] != "STB_LOCAL":
                where = undefined if symbol["st_shndx"] == "SHN_UNDEF" else defined
                where.add(symbol.name)
    return defined, undefined

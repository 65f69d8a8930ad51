"""A contract for import-linter: modules that import the standard library, each other, and nothing else."""

from __future__ import annotations

import sys

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output
from importlinter.domain.helpers import module_expressions_to_modules


class StandardLibraryOnly(Contract):
    """Each of `modules` imports only from the standard library and from `modules`.

    They are dotted names, `**` stands for all below a package. A name without a wildcard that does not exist
    breaks the contract, so that a rename does not end it silently.
    """

    type_name = "standard_library_only"

    modules = fields.SetField(subfield=fields.ModuleExpressionField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        domain = {module.name for module in module_expressions_to_modules(graph, self.modules)}  # type: ignore[arg-type]
        breaches = [f"{name} does not exist" for name in sorted(domain - graph.modules)]
        for importer in sorted(domain & graph.modules):
            for imported in sorted(graph.find_modules_directly_imported_by(importer)):
                if imported in domain or imported.partition(".")[0] in sys.stdlib_module_names:
                    continue
                (detail, *_) = graph.get_import_details(importer=importer, imported=imported)
                breaches.append(f"{importer} imports {imported} (line {detail['line_number']})")
        return ContractCheck(kept=not breaches, metadata={"breaches": breaches})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for breach in check.metadata["breaches"]:
            output.print_error(breach)
        output.new_line()

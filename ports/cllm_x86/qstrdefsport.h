// qstrs that no source file of the port names.

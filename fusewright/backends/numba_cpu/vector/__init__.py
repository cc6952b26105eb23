"""Functions of a whole vector register, for variants whose instructions plain LLVM has no words for."""

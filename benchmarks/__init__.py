"""Programs that measure, one question each; every figure in the documentation comes from one."""

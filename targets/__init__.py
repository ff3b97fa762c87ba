"""Targets: lowering networks to kernels, schedules, code generation, bundles and timing."""

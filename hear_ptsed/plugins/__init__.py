"""HEAR plug-ins: one module per model and stage, because the HEAR tools name runs after modules."""

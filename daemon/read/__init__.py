"""Reading what was counted: the state of the flow, the most counted entities, an entity's history. Writes nothing."""

"""The parts that a report page is put together from: markup, charts, pictures of sound, players, tables."""

"""Audio to numbers, and the page that shows them. Write `from eval.fad import ...`, never `import eval`."""

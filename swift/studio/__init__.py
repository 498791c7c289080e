"""The studio. Read `form`, `workspace`, `jobs`, `runs` and `curves` for what it does, the pages for how it looks."""

"""Each file is one decision. They import the `*_views` of the core, as the core does, which knows no policy."""

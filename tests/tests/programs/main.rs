//! Programs of Burn users, each without SWA and with it. The lines that a user adds or changes end with `// SWA`.

mod classifier;
mod own_loop;
mod own_strategy;
mod record;
mod transformer;

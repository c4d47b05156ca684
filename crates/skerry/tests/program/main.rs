//! The program as its user meets it.

mod objects;
mod site;
mod starts;

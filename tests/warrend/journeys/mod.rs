mod northwind;
mod upgrade;

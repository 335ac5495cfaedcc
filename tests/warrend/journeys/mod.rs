mod northwind;

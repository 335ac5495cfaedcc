//! All orders of the Northwind sample database, sent by a Python producer and worked by Python robots of every habit at
//! once. The robots' own log says what was done; the mirror has to say the same, item by item.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::support::daemon::daemon;
use crate::support::python::{Robots, produce};

const ORDERS: usize = 830;

const QUEUE: &str = "
queue: orders
unique: true
crash_limit: 20
schema:
  type: object
  required: [orderID, customerID, shipCountry, freight, lines]
  properties:
    orderID: {type: integer}
    customerID: {type: string, minLength: 1}
    freight: {type: number, minimum: 0}
    lines:
      type: array
      minItems: 1
      items:
        type: object
        required: [productID, quantity, unitPrice]
        properties: {quantity: {type: integer, minimum: 1}}
";

#[tokio::test]
async fn every_northwind_order_ends_as_its_robot_said_and_a_second_sending_adds_none() {
    let orders = orders();
    assert_eq!(orders.len(), ORDERS);
    let daemon = daemon("northwind").queues(QUEUE).setting("CONTROL__RECONCILE_PERIOD", "2s").start().await;

    let mut robots = Robots::of(&daemon.vhost, "orders");
    for (name, habit) in [
        ("good-1", "report_ack"),
        ("good-2", "report_ack"),
        ("picky", "report_reject"),
        ("mute-rejecter", "bare_reject"),
        ("mute-acker", "ack_only"),
        ("slow-1", "slow"),
        ("slow-2", "slow"),
    ] {
        robots.start(name, habit);
    }
    robots.start_dying("mortal", 8);
    let lines: String = orders.values().map(|order| format!("{}\n", order.line())).collect();
    assert_eq!(produce(&daemon.vhost, "orders", &lines).await.trim(), "830 confirmed, 0 not taken");

    let settled = |log: &[Value]| log.iter().filter(|line| line["settled"] != "died").count();
    robots.wait_until("every order is settled by a robot", |log| settled(log) >= ORDERS).await;
    daemon.wait_until_done("orders", ORDERS as u64).await;
    robots.end().await;

    let mut said: HashMap<String, Value> = HashMap::new();
    let mut habits: BTreeMap<String, usize> = BTreeMap::new();
    for line in robots.log() {
        *habits.entry(line["habit"].as_str().unwrap().to_owned()).or_default() += 1;
        if line["settled"] != "died" {
            let before = said.insert(line["reference"].as_str().unwrap().to_owned(), line.clone());
            assert!(before.is_none(), "two robots settled one order: {before:?} and {line}");
        }
    }
    for habit in ["report_ack", "report_reject", "bare_reject", "ack_only", "dying", "slow"] {
        assert!(habits.contains_key(habit), "no robot with the habit {habit} had an order: {habits:?}");
    }

    let items = daemon.items("queue=orders").await;
    assert_eq!(items.len(), ORDERS);
    for (reference, order) in &orders {
        let found: Vec<&Value> = items.iter().filter(|item| item["reference"] == reference.as_str()).collect();
        let [item] = found[..] else { panic!("{reference} is there {} times", found.len()) };
        let line = &said[reference];
        assert_eq!(item["id"], line["message_id"], "{item}");
        let outcome = json!([item["state"], item["kind"], item["code"], item["inferred"]]);
        let expected = match line["habit"].as_str().unwrap() {
            "report_ack" | "slow" => json!(["processed", null, null, false]),
            "report_reject" => json!(["exception", "business", "rejected_by_habit", false]),
            "bare_reject" => json!(["exception", "generic", null, false]),
            "ack_only" => json!(["processed", null, null, true]),
            other => panic!("nobody settles by {other}"),
        };
        assert_eq!(outcome, expected, "{line} made {item}");
        if item["state"] == "exception" {
            let reason = item["reason"].as_str().unwrap();
            assert!(["this robot takes nothing", "rejected without a report"].contains(&reason), "{item}");
        }
        let kept = json!([item["due_at"], item["priority"], item["attempt"], item["possible_repeat"]]);
        assert_eq!(kept, json!([order.due_at, order.priority, 1, false]), "{item}");
        let payload = daemon.get(&format!("/api/v1/items/{}/payload", item["id"].as_str().unwrap())).await;
        assert_eq!(payload, order.payload, "the payload of {reference}");
    }
    let before = daemon.queue("orders").await;
    assert_eq!(before["unaccounted"], 0);
    assert_eq!((&before["counts"]["queued"], &before["counts"]["processing"]), (&json!(0), &json!(0)));

    assert_eq!(produce(&daemon.vhost, "orders", &lines).await.trim(), "830 confirmed, 0 not taken");
    let revisions = |items: &[Value]| items.iter().map(|item| item["revision"].as_u64().unwrap()).sum::<u64>();
    let expected = revisions(&items) + ORDERS as u64;
    daemon
        .wait_until("every order is noted as sent again", async |daemon| {
            revisions(&daemon.items("queue=orders").await) >= expected
        })
        .await;
    let again = daemon.items("queue=orders").await;
    let without_revision = |items: &[Value]| -> BTreeMap<String, Value> {
        let strip = |item: &Value| {
            let mut item = item.clone();
            item["revision"] = Value::Null;
            (item["id"].as_str().unwrap().to_owned(), item)
        };
        items.iter().map(strip).collect()
    };
    assert_eq!(without_revision(&again), without_revision(&items));
    assert_eq!(daemon.queue("orders").await["counts"], before["counts"]);
    assert_eq!(daemon.get("/api/v1/parked").await["items"], json!([]));
}

struct Order {
    payload: Value,
    due_at: String,
    priority: u8,
}

impl Order {
    fn new(payload: Value, due_at: String) -> Self {
        let priority = match payload["freight"].as_f64().expect("freight is a number") {
            ..20.0 => 1,
            ..100.0 => 4,
            _ => 8,
        };
        Self { payload, due_at, priority }
    }

    /// As `producer.py` reads it.
    fn line(&self) -> Value {
        let reference = self.payload["orderID"].to_string();
        json!({"reference": reference, "due_at": self.due_at, "priority": self.priority, "payload": self.payload})
    }
}

/// By reference. `WARREND_NORTHWIND` names the directory of the sample; without it there are orders of our own making.
fn orders() -> BTreeMap<String, Order> {
    let dir = std::env::var_os("WARREND_NORTHWIND")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/northwind")), PathBuf::from);
    let read = |name: &str| fs::read_to_string(dir.join(name)).map(|text| csv(&text));
    match (read("orders.csv"), read("order-details.csv")) {
        (Ok(orders), Ok(details)) => joined(&orders, &details),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("no Northwind orders in {} ({error}): {ORDERS} generated ones instead", dir.display());
            (0..ORDERS).map(generated).collect()
        }
    }
}

fn joined(orders: &[Map<String, Value>], details: &[Map<String, Value>]) -> BTreeMap<String, Order> {
    let mut lines: HashMap<String, Vec<Value>> = HashMap::new();
    for detail in details {
        let mut line = detail.clone();
        let order = line.remove("orderID").expect("an order");
        lines.entry(order.to_string()).or_default().push(Value::Object(line));
    }
    let mut order = |row: &Map<String, Value>| {
        let mut payload = row.clone();
        let reference = payload["orderID"].to_string();
        payload.insert("lines".to_owned(), lines.remove(&reference).unwrap_or_default().into());
        let required = payload["requiredDate"].as_str().expect("a date");
        let due_at = format!("{}Z", required.trim_end_matches(".000").replace(' ', "T"));
        (reference, Order::new(Value::Object(payload), due_at))
    };
    orders.iter().map(&mut order).collect()
}

fn generated(number: usize) -> (String, Order) {
    let id = 10_248 + number;
    let payload = json!({
        "orderID": id,
        "customerID": format!("C{}", number % 91),
        "shipAddress": "Rua do Paço, 67",
        "shipCountry": "Brazil",
        "freight": f64::from(u32::try_from(number * 37 % 20_000).expect("small")) / 100.0,
        "lines": [{"productID": number % 77 + 1, "quantity": number % 40 + 1, "unitPrice": 14.5}],
    });
    let due_at = format!("1997-{:02}-{:02}T00:00:00Z", number % 12 + 1, number % 28 + 1);
    (id.to_string(), Order::new(payload, due_at))
}

/// Rows of the sample's files by the names in their first line. They quote nothing: in a row that is too long the address
/// has commas of its own ("Rua do Paço, 67"). `NULL` is null, numbers are numbers.
fn csv(text: &str) -> Vec<Map<String, Value>> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().expect("a first line").split(',').collect();
    let address = names.iter().position(|name| *name == "shipAddress");
    let row = |line: &str| {
        let mut fields: Vec<String> = line.split(',').map(str::to_owned).collect();
        if let (Some(address), Some(more)) = (address, fields.len().checked_sub(names.len())) {
            let whole = fields[address..=address + more].join(",");
            fields.splice(address..=address + more, [whole]);
        }
        assert_eq!(fields.len(), names.len(), "{line}");
        names.iter().map(ToString::to_string).zip(fields.iter().map(|field| value(field))).collect()
    };
    lines.map(row).collect()
}

fn value(field: &str) -> Value {
    match field {
        "NULL" => Value::Null,
        // A postal code such as 05022 is a text.
        number if number.len() > 1 && number.starts_with('0') && !number.starts_with("0.") => json!(number),
        number => match (number.parse::<i64>(), number.parse::<f64>()) {
            (Ok(number), _) => json!(number),
            (_, Ok(fraction)) if fraction.is_finite() => json!(fraction),
            _ => json!(number),
        },
    }
}

#[test]
fn an_address_may_hold_commas() {
    let rows =
        csv("orderID,freight,shipAddress,shipPostalCode,shipRegion\n1,0.5,Rua do Paço, 67,05022,NULL\n2,3,a,b,c\n");
    let rows: Vec<Value> = rows.into_iter().map(Value::Object).collect();
    let expected = json!({"orderID": 1, "freight": 0.5, "shipAddress": "Rua do Paço, 67", "shipPostalCode": "05022",
        "shipRegion": null});
    assert_eq!(rows[0], expected);
    assert_eq!(rows[1]["shipPostalCode"], "b");
}

//! Between lapin's types and our words.

use std::collections::BTreeMap;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use crate::item::message::{Header, Message, Properties};

pub(super) fn message(delivery: Delivery) -> Message {
    Message {
        exchange: delivery.exchange.to_string(),
        routing_key: delivery.routing_key.to_string(),
        redelivered: delivery.redelivered,
        properties: properties(&delivery.properties),
        body: delivery.data,
    }
}

fn properties(from: &BasicProperties) -> Properties {
    let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    Properties {
        message_id: text(from.message_id()),
        correlation_id: text(from.correlation_id()),
        content_type: text(from.content_type()),
        priority: *from.priority(),
        expiration: text(from.expiration()),
        timestamp: *from.timestamp(),
        reply_to: text(from.reply_to()),
        kind: text(from.kind()),
        user_id: text(from.user_id()),
        app_id: text(from.app_id()),
        headers: from.headers().as_ref().map(table).unwrap_or_default(),
    }
}

fn table(from: &FieldTable) -> BTreeMap<String, Header> {
    from.inner().iter().map(|(name, value)| (name.to_string(), header(value))).collect()
}

fn header(from: &AMQPValue) -> Header {
    match from {
        AMQPValue::Boolean(value) => Header::Bool(*value),
        AMQPValue::ShortShortInt(value) => Header::Int(i64::from(*value)),
        AMQPValue::ShortShortUInt(value) => Header::Int(i64::from(*value)),
        AMQPValue::ShortInt(value) => Header::Int(i64::from(*value)),
        AMQPValue::ShortUInt(value) => Header::Int(i64::from(*value)),
        AMQPValue::LongInt(value) => Header::Int(i64::from(*value)),
        AMQPValue::LongUInt(value) => Header::Int(i64::from(*value)),
        AMQPValue::LongLongInt(value) => Header::Int(*value),
        AMQPValue::Float(value) => Header::Float(f64::from(*value)),
        AMQPValue::Double(value) => Header::Float(*value),
        AMQPValue::DecimalValue(value) => Header::Float(f64::from(value.value) / 10_f64.powi(i32::from(value.scale))),
        AMQPValue::ShortString(value) => Header::Text(value.to_string()),
        AMQPValue::LongString(value) => match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => Header::Text(text.to_owned()),
            Err(_) => Header::Bytes(value.as_bytes().to_vec()),
        },
        AMQPValue::FieldArray(values) => Header::List(values.as_slice().iter().map(header).collect()),
        AMQPValue::Timestamp(seconds) => Header::Time(*seconds),
        AMQPValue::FieldTable(inner) => Header::Table(table(inner)),
        AMQPValue::ByteArray(bytes) => Header::Bytes(bytes.as_slice().to_vec()),
        AMQPValue::Void => Header::Null,
    }
}

/// For publishing; persistent. Text longer than AMQP's 255 bytes for a property is left out: the caller has checked
/// what must not be.
pub(super) fn basic_properties(from: &Properties) -> BasicProperties {
    let mut to = BasicProperties::default().with_delivery_mode(2);
    let short = |text: &Option<String>| text.as_ref().and_then(|text| ShortString::try_new(text.clone()).ok());
    macro_rules! set {
        ($($field:ident => $with:ident),+) => { $(if let Some(value) = short(&from.$field) { to = to.$with(value); })+ };
    }
    set!(
        message_id => with_message_id, correlation_id => with_correlation_id, content_type => with_content_type,
        expiration => with_expiration, reply_to => with_reply_to, kind => with_type, app_id => with_app_id
    );
    if let Some(priority) = from.priority {
        to = to.with_priority(priority);
    }
    if let Some(timestamp) = from.timestamp {
        to = to.with_timestamp(timestamp);
    }
    if !from.headers.is_empty() {
        to = to.with_headers(field_table(&from.headers));
    }
    to
}

fn field_table(from: &BTreeMap<String, Header>) -> FieldTable {
    let mut to = FieldTable::default();
    for (name, value) in from {
        if let Ok(name) = ShortString::try_new(name.clone()) {
            to.insert(name, amqp_value(value));
        }
    }
    to
}

fn amqp_value(from: &Header) -> AMQPValue {
    match from {
        Header::Text(text) => AMQPValue::LongString(LongString::from(text.clone())),
        Header::Int(number) => AMQPValue::LongLongInt(*number),
        Header::Float(number) => AMQPValue::Double(*number),
        Header::Bool(truth) => AMQPValue::Boolean(*truth),
        Header::Time(seconds) => AMQPValue::Timestamp(*seconds),
        Header::Bytes(bytes) => AMQPValue::LongString(LongString::from(bytes.clone())),
        Header::List(values) => {
            let mut array = lapin::types::FieldArray::default();
            for value in values {
                array.push(amqp_value(value));
            }
            AMQPValue::FieldArray(array)
        }
        Header::Table(inner) => AMQPValue::FieldTable(field_table(inner)),
        Header::Null => AMQPValue::Void,
    }
}

//! API tokens: who has one, and what it is good for. Their secrets are nowhere; a hash of each is.

use std::collections::BTreeSet;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::read::failed;
use super::{Mirror, MirrorError, Tx, micros, timestamp};
use crate::item::Timestamp;
use crate::who::{Rights, Role};

/// Bytes of the hash of a secret (SHA-256).
pub const HASH: usize = 32;

/// An API token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Names it for people and routes; no secret.
    pub id: String,
    /// The actor of what it is used for; one of its own as long as it is not revoked.
    pub name: String,
    /// SHA-256 of the secret.
    pub hash: [u8; HASH],
    pub rights: Rights,
    pub created_at: Timestamp,
    pub created_by: String,
    /// From then on it is refused.
    pub expires_at: Option<Timestamp>,
    /// About when it was last shown; noted now and then.
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    pub revoked_by: Option<String>,
}

impl Token {
    /// What it is good for, for the audit log.
    #[must_use]
    pub fn terms(&self) -> serde_json::Value {
        let rights = &self.rights;
        serde_json::json!({
            "name": self.name,
            "roles": rights.roles.iter().map(|role| role.word()).collect::<Vec<_>>(),
            "queues": rights.queues.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "reveal": rights.reveal,
            "expires_at": self.expires_at.map(|at| at.to_string()),
        })
    }
}

/// Adds a token; `false` where one of the same name may be used still, and nothing was added.
///
/// # Errors
/// Where SQL fails.
pub async fn add(tx: &mut Tx, token: &Token) -> Result<bool, MirrorError> {
    let rights = &token.rights;
    let roles: Vec<&str> = rights.roles.iter().map(|role| role.word()).collect();
    let queues: Vec<String> = rights.queues.iter().map(ToString::to_string).collect();
    let added = sqlx::query(
        "INSERT INTO tokens (id, name, hash, roles, queues, reveal, created_at, created_by, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING",
    )
    .bind(&token.id)
    .bind(&token.name)
    .bind(token.hash.as_slice())
    .bind(serde_json::json!(roles).to_string())
    .bind(serde_json::json!(queues).to_string())
    .bind(rights.reveal)
    .bind(micros(token.created_at))
    .bind(&token.created_by)
    .bind(token.expires_at.map(micros))
    .execute(tx)
    .await
    .map_err(failed("add a token"))?;
    Ok(added.rows_affected() == 1)
}

/// Takes a token out of use; answers it as it is then, `None` where there is none of this id, and whether it was in use
/// before.
///
/// # Errors
/// Where SQL fails or it cannot be read.
pub async fn revoke(tx: &mut Tx, id: &str, at: Timestamp, by: &str) -> Result<Option<(Token, bool)>, MirrorError> {
    let revoked =
        sqlx::query("UPDATE tokens SET revoked_at = $2, revoked_by = $3 WHERE id = $1 AND revoked_at IS NULL")
            .bind(id)
            .bind(micros(at))
            .bind(by)
            .execute(&mut *tx)
            .await
            .map_err(failed("revoke a token"))?
            .rows_affected();
    let sql = format!("{SELECT} WHERE id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(tx).await;
    let row = row.map_err(failed("read a token"))?;
    row.as_ref().map(|row| Ok((token(row)?, revoked == 1))).transpose()
}

/// Notes when tokens were last used.
///
/// # Errors
/// Where SQL fails.
pub async fn note_use(tx: &mut Tx, uses: &[(String, Timestamp)]) -> Result<(), MirrorError> {
    for (id, at) in uses {
        sqlx::query("UPDATE tokens SET last_used_at = $2 WHERE id = $1 AND coalesce(last_used_at, 0) < $2")
            .bind(id)
            .bind(micros(*at))
            .execute(&mut *tx)
            .await
            .map_err(failed("note the use of a token"))?;
    }
    Ok(())
}

const SELECT: &str = "SELECT id, name, hash, roles, queues, reveal, created_at, created_by, expires_at, last_used_at, revoked_at, \
     revoked_by FROM tokens";

impl Mirror {
    /// Every token there ever was, oldest first. People make them, so they are few.
    ///
    /// # Errors
    /// Where SQL fails or one cannot be read.
    pub async fn tokens(&self) -> Result<Vec<Token>, MirrorError> {
        let sql = format!("{SELECT} ORDER BY seq");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(self.views()).await;
        rows.map_err(self.failed("read tokens"))?.iter().map(token).collect()
    }
}

fn token(row: &SqliteRow) -> Result<Token, MirrorError> {
    let read = failed("read a token");
    let id: String = row.try_get(0).map_err(&read)?;
    let unreadable = |what: &str| MirrorError::Unreadable(format!("the {what} of token {id}"));
    let words = |index: usize, what: &str| -> Result<Vec<String>, MirrorError> {
        let text: String = row.try_get(index).map_err(&read)?;
        serde_json::from_str(&text).map_err(|_| unreadable(what))
    };
    let roles = words(3, "roles")?.iter().map(|word| Role::from_word(word)).collect::<Option<BTreeSet<_>>>();
    let queues = words(4, "queues")?.iter().map(|text| text.parse()).collect::<Result<Vec<_>, _>>();
    let hash: Vec<u8> = row.try_get(2).map_err(&read)?;
    let moment = |index: usize| row.try_get::<Option<i64>, _>(index).map(|at| at.map(timestamp)).map_err(&read);
    Ok(Token {
        name: row.try_get(1).map_err(&read)?,
        hash: hash.try_into().map_err(|_| unreadable("hash"))?,
        rights: Rights {
            roles: roles.ok_or_else(|| unreadable("roles"))?,
            queues: queues.map_err(|_| unreadable("queues"))?,
            reveal: row.try_get(5).map_err(&read)?,
        },
        created_at: row.try_get(6).map(timestamp).map_err(&read)?,
        created_by: row.try_get(7).map_err(&read)?,
        expires_at: moment(8)?,
        last_used_at: moment(9)?,
        revoked_at: moment(10)?,
        revoked_by: row.try_get(11).map_err(&read)?,
        id,
    })
}

//! Rights of users over the management API, which needs an administrator for it. Users themselves, with their passwords and
//! tags, are left to people.

use serde::Deserialize;
use serde_json::json;

use super::management::{Management, ManagementError, accepted};
use crate::topology::access::{Grant, Permissions, TopicPermission};

/// What a user has so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub tags: Vec<String>,
    /// In this virtual host; `None` where it may not even enter it.
    pub permissions: Option<Permissions>,
    pub topic_permissions: Vec<TopicPermission>,
}

/// Tags as a list, or as older brokers write them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Tags {
    List(Vec<String>),
    Text(String),
}

impl Management {
    /// The virtual host is there.
    ///
    /// # Errors
    /// Where the API does not answer as it should.
    pub async fn has_vhost(&self) -> Result<bool, ManagementError> {
        let vhost: Option<serde_json::Value> =
            found(self.get("describe the virtual host", &["vhosts", &self.vhost]).await)?;
        Ok(vhost.is_some())
    }

    /// An exchange of this name is in the virtual host. Topic permissions are refused without it.
    ///
    /// # Errors
    /// Where the API does not answer as it should.
    pub async fn has_exchange(&self, name: &str) -> Result<bool, ManagementError> {
        let exchange: Option<serde_json::Value> =
            found(self.get("describe an exchange", &["exchanges", &self.vhost, name]).await)?;
        Ok(exchange.is_some())
    }

    /// A user, with its rights in this virtual host; `None` where there is none of this name.
    ///
    /// # Errors
    /// Where the API does not answer as it should.
    pub async fn user(&self, name: &str) -> Result<Option<User>, ManagementError> {
        #[derive(Deserialize)]
        struct About {
            tags: Tags,
        }
        let Some(about) = found(self.get::<About>("describe a user", &["users", name]).await)? else { return Ok(None) };
        let tags = match about.tags {
            Tags::List(tags) => tags,
            Tags::Text(tags) => {
                tags.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
            }
        };
        let permissions = found(self.get("read a user's permissions", &["permissions", &self.vhost, name]).await)?;
        let topics = self.get("read a user's topic permissions", &["topic-permissions", &self.vhost, name]).await;
        Ok(Some(User { tags, permissions, topic_permissions: found(topics)?.unwrap_or_default() }))
    }

    /// Gives a user these rights in this virtual host, instead of those it has. Narrower ones come first, so that it never has
    /// more than both. Topic permissions of exchanges that are not named stay, but where none is named at all.
    ///
    /// # Errors
    /// Where the API does not answer or refuses; some of it may be set then, and setting it again does no harm.
    pub async fn grant(&self, grant: &Grant) -> Result<(), ManagementError> {
        let topics = ["topic-permissions", &self.vhost, &grant.user];
        for topic in &grant.topic_permissions {
            let answer = self.send(&topics, |url| self.http.put(url).json(topic)).await?;
            accepted("set topic permissions", answer).await?;
        }
        if grant.topic_permissions.is_empty() {
            let answer = self.send(&topics, |url| self.http.delete(url)).await?;
            found(accepted("clear topic permissions", answer).await)?;
        }
        let Permissions { configure, write, read } = &grant.permissions;
        let body = json!({ "configure": configure, "write": write, "read": read });
        let path = ["permissions", &self.vhost, &grant.user];
        let answer = self.send(&path, |url| self.http.put(url).json(&body)).await?;
        accepted("set permissions", answer).await.map(|_| ())
    }
}

fn found<T>(answer: Result<T, ManagementError>) -> Result<Option<T>, ManagementError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(ManagementError::Refused { status: 404, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

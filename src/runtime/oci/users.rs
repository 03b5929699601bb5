//! Who a container runs as: names are looked up in the image's own `/etc/passwd` and
//! `/etc/group`, never in the host's. Pure, but for [`read_within`].

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::spec::UserSpec;

/// A file of an image larger than this is not read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A process's user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Its home, where the image knows one.
    pub home: Option<String>,
}

/// Reads a file of an image; links in it lead around within it.
pub fn read_within(root: &Path, path: &str) -> String {
    let opened = File::open(root).and_then(|root| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        Ok(File::from(file))
    });
    let mut text = String::new();
    if let Ok(file) = opened
        && file.metadata().is_ok_and(|meta| meta.is_file())
    {
        // What is no text is no list of users.
        let _ = file.take(FILE_BYTES_MAX).read_to_string(&mut text);
    }
    text
}

/// The user that `spec` means in an image with these files.
///
/// # Errors
/// The text of the container's waiting message.
pub fn resolve(spec: &UserSpec, passwd: &str, group: &str) -> Result<User, String> {
    let image = spec.image.as_deref().unwrap_or_default();
    let (name, image_group) = match image.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (image, None),
    };
    let asked = match spec.uid {
        Some(uid) => Found::number(passwd, uid),
        None if name.is_empty() => Found::number(passwd, 0),
        None => match name.parse() {
            Ok(uid) => Found::number(passwd, uid),
            Err(_) if spec.non_root => {
                return Err(format!(
                    "container has runAsNonRoot and image has non-numeric user ({name}), cannot \
                     verify user is non-root"
                ));
            }
            Err(_) => Found::name(passwd, name).ok_or_else(|| {
                format!("unable to find user {name}: no matching entries in passwd file")
            })?,
        },
    };
    if spec.non_root && asked.uid == 0 {
        return Err(match spec.uid {
            Some(_) => "container's runAsUser breaks non-root policy".to_owned(),
            None => "container has runAsNonRoot and image will run as root".to_owned(),
        });
    }
    let by_image = match image_group.filter(|_| spec.uid.is_none()) {
        Some(group_name) => Some(gid(group, group_name)?),
        None => None,
    };
    let gid = spec.gid.or(by_image).or(asked.gid).unwrap_or(0);
    let mut groups = vec![gid];
    if spec.merge_groups
        && let Some(name) = &asked.name
    {
        groups.extend(memberships(group, name));
    }
    groups.extend(&spec.supplemental);
    let mut seen = std::collections::HashSet::new();
    groups.retain(|gid| seen.insert(*gid));
    Ok(User { uid: asked.uid, gid, groups, home: asked.home })
}

/// A line of passwd, or a number that has none.
struct Found {
    uid: u32,
    gid: Option<u32>,
    name: Option<String>,
    home: Option<String>,
}

impl Found {
    fn of(line: &str) -> Option<Self> {
        let parts: Vec<&str> = line.split(':').collect();
        Some(Self {
            uid: parts.get(2)?.parse().ok()?,
            gid: parts.get(3)?.parse().ok(),
            name: parts.first().map(|name| (*name).to_owned()),
            home: parts.get(5).filter(|home| !home.is_empty()).map(|home| (*home).to_owned()),
        })
    }

    fn name(passwd: &str, name: &str) -> Option<Self> {
        passwd.lines().filter_map(Self::of).find(|found| found.name.as_deref() == Some(name))
    }

    fn number(passwd: &str, uid: u32) -> Self {
        let known = passwd.lines().filter_map(Self::of).find(|found| found.uid == uid);
        known.unwrap_or(Self { uid, gid: None, name: None, home: None })
    }
}

fn gid(group: &str, name: &str) -> Result<u32, String> {
    if let Ok(gid) = name.parse() {
        return Ok(gid);
    }
    let lines = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut found = lines.filter(|parts| parts.first() == Some(&name));
    let number = found.find_map(|parts| parts.get(2)?.parse().ok());
    number.ok_or_else(|| format!("unable to find group {name}: no matching entries in group file"))
}

fn memberships(group: &str, user: &str) -> Vec<u32> {
    let lines = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let own = lines.filter(|parts| {
        parts.get(3).is_some_and(|members| members.split(',').any(|member| member.trim() == user))
    });
    own.filter_map(|parts| parts.get(2)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:w:/srv:/bin/sh\nbad line\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:40:web,other\nstaff:x:50:\n";

    fn of(image: &str, change: impl FnOnce(&mut UserSpec)) -> Result<User, String> {
        let mut spec =
            UserSpec { image: Some(image.to_owned()), merge_groups: true, ..UserSpec::default() };
        change(&mut spec);
        resolve(&spec, PASSWD, GROUP)
    }

    #[test]
    fn names_and_numbers_are_those_of_the_image() {
        let web = of("web", |_| {}).expect("known");
        assert_eq!((web.uid, web.gid, web.groups.as_slice()), (33, 34, &[34, 40][..]));
        assert_eq!(web.home.as_deref(), Some("/srv"));
        assert_eq!(of("33", |_| {}).expect("known"), web);
        let with_group = of("web:staff", |_| {}).expect("known");
        assert_eq!((with_group.gid, with_group.groups.as_slice()), (50, &[50, 40][..]));
        let unknown = of("1234:5", |_| {}).expect("a number");
        assert_eq!((unknown.uid, unknown.gid), (1234, 5));
        assert_eq!(of("", |_| {}).expect("root").uid, 0);
        assert!(of("nobody", |_| {}).expect_err("unknown").contains("nobody"));
        assert!(of("web:none", |_| {}).expect_err("unknown").contains("group none"));
    }

    #[test]
    fn the_pod_wins_over_the_image() {
        let own = of("web:staff", |s| {
            s.uid = Some(1000);
            s.gid = Some(2000);
            s.supplemental = vec![3000, 2000];
        });
        let own = own.expect("numbers");
        assert_eq!((own.uid, own.gid, own.groups.as_slice()), (1000, 2000, &[2000, 3000][..]));
        let uid_alone = of("web:staff", |s| s.uid = Some(33)).expect("a number");
        assert_eq!(uid_alone.gid, 34);
        let strict = of("web", |s| s.merge_groups = false).expect("known");
        assert_eq!(strict.groups, [34]);
    }

    #[test]
    fn root_is_refused_where_it_must_not_be() {
        let refused = |image: &str, uid| {
            of(image, |s| {
                s.non_root = true;
                s.uid = uid;
            })
            .expect_err("refused")
        };
        assert!(refused("", None).contains("image will run as root"));
        assert!(refused("web", None).contains("non-numeric user (web)"));
        assert!(refused("33", Some(0)).contains("breaks non-root policy"));
    }
}

//! A person of the host inside: `--user me`. Their account stands in files that are shown over the tree's, which stays as it is.
//!
//! Numbers are the person's own, names too. Where the tree has a group of a name already, its number holds inside: members of
//! `sudo` are found by that name. A number that the tree gives to another group is left to it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use rootling_backends::{Dir, Result};

use crate::runner::{Account, FileAt, User, read_account_file};

/// A person, as the host knows them, with the numbers they have inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The login name.
    pub name: String,
    /// The number inside: their own, or 0 where it cannot be had.
    pub uid: u32,
    /// The group inside.
    pub gid: u32,
    /// The group's name.
    pub group: String,
    /// The full name.
    pub gecos: String,
    /// The home directory, on the host and inside.
    pub home: PathBuf,
    /// The login shell on the host.
    pub shell: PathBuf,
    /// Name and number of the other groups on the host.
    pub groups: Vec<(String, u32)>,
}

impl Person {
    /// Returns the account that the person has in a tree.
    pub fn account(&self, root: &Dir) -> Result<Account> {
        let (_, groups) = self.group_file(&read_account_file(root, "etc/group")?);
        Ok(Account {
            user: User { uid: self.uid, gid: self.gid, groups },
            name: Some(self.name.clone()),
            home: self.home.clone(),
            shell: Some(self.shell_in(root)),
        })
    }

    /// Returns the tree's account files with the person in them.
    pub fn files(&self, root: &Dir) -> Result<Vec<FileAt>> {
        let passwd = self.passwd_file(&read_account_file(root, "etc/passwd")?, &self.shell_in(root));
        let (group, _) = self.group_file(&read_account_file(root, "etc/group")?);
        Ok(vec![FileAt::new("/etc/passwd", passwd), FileAt::new("/etc/group", group)])
    }

    /// The person's shell if the tree has it, else what most trees have, else what every one has.
    fn shell_in(&self, root: &Dir) -> PathBuf {
        let there = |path: &Path| root.open_in_root(path, OFlag::O_PATH).is_ok();
        let known = [self.shell.as_path(), Path::new("/bin/bash")];
        known
            .into_iter()
            .find(|path| path.is_absolute() && there(path))
            .unwrap_or(Path::new("/bin/sh"))
            .into()
    }

    /// The tree's lines without those of this name or number, and one more. As root, the person is the first of that number, and root
    /// stays the second: the first is who a number is called after.
    fn passwd_file(&self, tree: &str, shell: &Path) -> String {
        let field = |line: &str, index| line.split(':').nth(index).map(str::to_owned);
        let uid = self.uid.to_string();
        let is_theirs = |line: &str| {
            let same_number = self.uid != 0 && field(line, 2).as_deref() == Some(&uid);
            field(line, 0).as_deref() == Some(&self.name) || same_number
        };
        let kept: String =
            tree.lines().filter(|line| !is_theirs(line)).map(|line| format!("{line}\n")).collect();
        let Self { name, gid, gecos, home, .. } = self;
        let ours = format!(
            "{}:x:{uid}:{gid}:{}:{}:{}\n",
            one_field(name),
            one_field(gecos),
            one_field(&home.to_string_lossy()),
            one_field(&shell.to_string_lossy())
        );
        if self.uid == 0 { ours + &kept } else { kept + &ours }
    }

    /// The tree's groups with the person in those of their names and those that are theirs alone, and the numbers of their groups inside.
    fn group_file(&self, tree: &str) -> (String, Vec<u32>) {
        let mut lines: Vec<(String, Option<u32>, Vec<String>)> = Vec::new();
        let mut text = String::new();
        for line in tree.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            match fields.as_slice() {
                [name, _, gid, members, ..] => {
                    let members = members.split(',').filter(|name| !name.is_empty()).map(str::to_owned);
                    lines.push(((*name).to_owned(), gid.parse().ok(), members.collect()));
                }
                // Not a group; whoever reads the file skips it as well.
                _ => text = text + line + "\n",
            }
        }
        let has_gid = |lines: &[(String, Option<u32>, Vec<String>)], gid| {
            lines.iter().any(|(_, known, _)| *known == Some(gid))
        };
        if !has_gid(&lines, self.gid) {
            // The group of the files they make has a name, and that name no other number.
            lines.retain(|(name, ..)| *name != self.group);
            lines.push((self.group.clone(), Some(self.gid), Vec::new()));
        }
        let mut inside = Vec::new();
        for (name, gid) in &self.groups {
            if let Some((_, known, members)) = lines.iter_mut().find(|(known, ..)| known == name) {
                if !members.contains(&self.name) {
                    members.push(self.name.clone());
                }
                inside.extend(*known);
            } else if !has_gid(&lines, *gid) {
                lines.push((name.clone(), Some(*gid), vec![self.name.clone()]));
                inside.push(*gid);
            }
        }
        inside.retain(|gid| *gid != self.gid);
        inside.sort_unstable();
        inside.dedup();
        for (name, gid, members) in &lines {
            let gid = gid.map_or_else(String::new, |gid| gid.to_string());
            let members: Vec<String> = members.iter().map(|member| one_field(member)).collect();
            writeln!(text, "{}:x:{gid}:{}", one_field(name), members.join(",")).expect("a string grows");
        }
        (text, inside)
    }
}

/// What stands between two colons must bring no colon or line of its own.
fn one_field(text: &str) -> String {
    text.chars().map(|c| if c == ':' || c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person() -> Person {
        Person {
            name: "ada".into(),
            uid: 1000,
            gid: 1000,
            group: "ada".into(),
            gecos: "Ada: L\n".into(),
            home: "/home/ada".into(),
            shell: "/bin/zsh".into(),
            groups: vec![("sudo".into(), 27), ("docker".into(), 998), ("odd".into(), 50)],
        }
    }

    #[test]
    fn the_account_is_added_and_what_was_there_is_kept() {
        let tree =
            "root:x:0:0::/root:/bin/sh\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\nada:x:7:7::/:/bin/false\n";
        let text = person().passwd_file(tree, Path::new("/bin/sh"));
        assert_eq!(text, "root:x:0:0::/root:/bin/sh\nada:x:1000:1000:Ada  L :/home/ada:/bin/sh\n");
        // A second time nothing changes: a command that joins reads what the first was given.
        assert_eq!(person().passwd_file(&text, Path::new("/bin/sh")), text);
    }

    #[test]
    fn groups_are_found_by_name_and_foreign_numbers_are_left_alone() {
        let tree = "root:x:0:\nsudo:x:30:bob\nstaff:x:50:\nada:x:4:\n";
        let (text, groups) = person().group_file(tree);
        assert_eq!(text, "root:x:0:\nsudo:x:30:bob,ada\nstaff:x:50:\nada:x:1000:\ndocker:x:998:ada\n");
        assert_eq!(groups, [30, 998]);
        assert_eq!(person().group_file(&text), (text, groups));
    }

    #[test]
    fn who_is_root_inside_is_called_by_their_name_and_root_stays() {
        let me = Person { uid: 0, gid: 0, ..person() };
        let text = me.passwd_file("root:x:0:0::/root:/bin/sh\n", Path::new("/bin/sh"));
        assert_eq!(text, "ada:x:0:0:Ada  L :/home/ada:/bin/sh\nroot:x:0:0::/root:/bin/sh\n");
        let root = Person { name: "root".into(), groups: vec![], ..me };
        assert_eq!(root.passwd_file("root:x:0:0::/root:/bin/sh\n", Path::new("/bin/sh")).lines().count(), 1);
        assert_eq!(root.group_file("root:x:0:\n"), ("root:x:0:\n".into(), vec![]));
    }
}

//! An OCI layout as it is named on the command line, `DIR` or `DIR:TAG`: where it is, and which of
//! its images is meant; opens no blob.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::TAG;

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The directory of a layout, and the tag if one is named; none where there is no layout.
pub(crate) fn split(named: &Path) -> Option<(PathBuf, Option<String>)> {
    let is_layout = |directory: &Path| directory.join("oci-layout").is_file();
    if is_layout(named) {
        return Some((named.to_path_buf(), None));
    }
    let (directory, tag) = named.to_str()?.rsplit_once(':')?;
    let directory = PathBuf::from(directory);
    is_layout(&directory).then(|| (directory, Some(tag.to_owned())))
}

/// The tag of the image that is meant where none is named: that of the only image, which a layout
/// need not give it, or `latest` of several.
pub(super) fn only_tag(directory: &Path) -> Result<String> {
    let file = directory.join("index.json");
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let index: Value = serde_json::from_slice(&text)?;
    let images = index["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Some tools write the whole name there.
    let tag = |image: &Value| {
        let name = image["annotations"][REF_NAME].as_str()?;
        Some(name.rsplit_once(':').map_or(name, |(_, tag)| tag).to_owned())
    };
    let tags: Vec<String> = images.iter().filter_map(tag).collect();
    match (images, tags.as_slice()) {
        ([_], [tag]) => Ok(tag.clone()),
        ([_], _) => Ok(TAG.to_owned()),
        (_, tags) if tags.iter().any(|tag| tag == TAG) => Ok(TAG.to_owned()),
        (_, tags) => bail!("{} has several images: {}", directory.display(), tags.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn write(directory: &Path, tags: &[Option<&str>]) {
        let image = |tag: &Option<&str>| json!({"annotations": {REF_NAME: tag}});
        let images: Vec<Value> = tags.iter().map(image).collect();
        fs::write(directory.join("index.json"), json!({"manifests": images}).to_string()).unwrap();
    }

    #[test]
    fn a_layout_is_found_and_one_of_its_images_meant() {
        let directory = std::env::temp_dir().join(format!("xylem-named-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        assert_eq!(split(&directory), None);
        fs::write(directory.join("oci-layout"), "{}").unwrap();
        assert_eq!(split(&directory), Some((directory.clone(), None)));
        let tagged = format!("{}:v1", directory.display());
        assert_eq!(split(Path::new(&tagged)), Some((directory.clone(), Some("v1".to_owned()))));
        assert_eq!(split(Path::new("127.0.0.1:5000/demo:v1")), None);
        for (tags, meant) in [
            (&[Some("v1")][..], Some("v1")),
            (&[Some("a.example/b:v2")], Some("v2")),
            (&[None], Some(TAG)),
            (&[Some("v1"), Some(TAG)], Some(TAG)),
            (&[Some("v1"), Some("v2")], None),
            (&[], None),
        ] {
            write(&directory, tags);
            assert_eq!(only_tag(&directory).ok().as_deref(), meant, "{tags:?}");
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}

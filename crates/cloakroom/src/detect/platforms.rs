//! Platforms that run an application on several servers, by what they put into the environment.

use super::seen::Variables;

const PLATFORMS: &[(&str, &[&str])] = &[
    ("Cloud Foundry", &["VCAP_APPLICATION", "VCAP_SERVICES", "VCAP_SERVICES_FILE_PATH"]),
    ("Heroku", &["DYNO"]),
    ("Platform.sh", &["PLATFORM_APPLICATION_NAME", "PLATFORM_PROJECT", "PLATFORM_RELATIONSHIPS"]),
    (
        "Scalingo",
        &["SCALINGO_REDIS_URL", "SCALINGO_POSTGRESQL_URL", "SCALINGO_MYSQL_URL", "CONTAINER_VERSION"],
    ),
    ("Clever Cloud", &["CC_DEPLOYMENT_ID"]),
    ("Railway", &["RAILWAY_ENVIRONMENT", "RAILWAY_ENVIRONMENT_ID", "RAILWAY_SERVICE_ID"]),
    ("Render", &["RENDER"]),
    ("Fly", &["FLY_APP_NAME"]),
    ("Azure App Service", &["WEBSITE_INSTANCE_ID"]),
    ("Google Cloud Run", &["K_SERVICE"]),
    ("Amazon ECS", &["ECS_CONTAINER_METADATA_URI_V4"]),
    ("Kubernetes", &["KUBERNETES_SERVICE_HOST", "SERVICE_BINDING_ROOT"]),
];

/// The platform that this is, if it is one of them.
pub(super) fn recognised(variables: &Variables<'_>) -> Option<&'static str> {
    let is_set = |name: &str| variables.plain(name).is_some();
    PLATFORMS.iter().find(|(_, names)| names.iter().any(|name| is_set(name))).map(|(platform, _)| *platform)
}

/** Supported versions of the CNI specification. Results of all of them are converted to the last one. */
export const CNI_VERSIONS = ['0.1.0', '0.2.0', '0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;

type CniVersion = (typeof CNI_VERSIONS)[number];

/** The version of a configuration without `cniVersion` (specification 0.2.0; libcni does the same). */
export const DEFAULT_VERSION: CniVersion = '0.2.0';
export const NEWEST_VERSION: CniVersion = '1.1.0';

export function isKnownVersion(version: string): version is CniVersion {
  return (CNI_VERSIONS as readonly string[]).includes(version);
}

/** True when `version` is `least` or newer. An unknown version counts as older than all. */
export function atLeast(version: string, least: CniVersion): boolean {
  return (CNI_VERSIONS as readonly string[]).indexOf(version) >= CNI_VERSIONS.indexOf(least);
}

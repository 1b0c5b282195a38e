/** Versions of the CNI specification that can be spoken with plugins; results of all of them become the shape of the last. */
export const CNI_VERSIONS = ['0.1.0', '0.2.0', '0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;

export type CniVersion = (typeof CNI_VERSIONS)[number];

/** What a configuration without `cniVersion` means (specification 0.2.0; libcni reads it alike). */
export const DEFAULT_VERSION: CniVersion = '0.2.0';
export const NEWEST_VERSION: CniVersion = '1.1.0';

export function isKnownVersion(version: string): version is CniVersion {
  return (CNI_VERSIONS as readonly string[]).includes(version);
}

/** Is `version` the same as `least` or newer? An unknown version is older than all. */
export function atLeast(version: string, least: CniVersion): boolean {
  return (CNI_VERSIONS as readonly string[]).indexOf(version) >= CNI_VERSIONS.indexOf(least);
}

/**
 * How paths stand in the options of an overlay mount. The kernel splits the options at commas and the list of lower
 * folders at colons, and takes what follows a backslash as it is (ovl_next_opt, ovl_unescape in fs/overlayfs).
 */

/** A path as the value of `lowerdir`, `upperdir` or `workdir`. */
export function overlayPath(path: string): string {
  return path.replace(/[\\,:]/g, '\\$&');
}

/** The paths of a list as `lowerdir` has it, topmost first. */
export function overlayPaths(list: string): string[] {
  return (list.match(/(?:\\.|[^\\:])+/gs) ?? []).map((path) => path.replace(/\\(.)/gs, '$1'));
}

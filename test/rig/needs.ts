import { findProgram } from './paths.ts';

/**
 * For the `skip` of a test that needs root and these programs: false where it can run, else the reason, which the
 * report prints. Programs are found in PATH and in the folders where Debian keeps those for root.
 */
export function skipUnlessRoot(...programs: string[]): string | false {
  if (process.getuid?.() !== 0) return 'needs root';
  const missing = programs.filter((name) => !findProgram(name));
  return missing.length > 0 && `needs ${missing.join(', ')}`;
}

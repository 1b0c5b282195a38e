/** The bill of materials of a release: CycloneDX 1.6, JSON. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Release, ROOT } from './build.ts';

/** Debian's name of what the packages depend on at run time, and what the release does without. */
export interface RuntimeDependency {
  name: string;
  required: boolean;
}

interface Lock {
  packages: Record<string, { integrity?: string; resolved?: string }>;
}

/** The document as text. `epoch`: seconds since 1970 that stand for the time of making. */
export function sbom(release: Release, dependencies: readonly RuntimeDependency[], epoch: number): string {
  const lock = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')) as Lock;
  const self = { 'bom-ref': 'sluice', type: 'application', name: 'sluice', version: release.version };
  const bundled = release.packages.map(({ name, version, license }) => {
    const integrity = lock.packages[`node_modules/${name}`]?.integrity;
    const program = name === 'node';
    return {
      'bom-ref': `npm:${name}@${version}`,
      type: program ? 'application' : 'library',
      name,
      version,
      scope: 'required',
      licenses: [/ (AND|OR) /.test(license) ? { expression: license } : { license: { id: license } }],
      purl: program ? `pkg:github/nodejs/node@v${version}` : `pkg:npm/${name.replace('@', '%40')}@${version}`,
      hashes: program
        ? [{ alg: 'SHA-256', content: sha256(join(release.folder, 'node')) }]
        : integrity
          ? [{ alg: 'SHA-512', content: Buffer.from(integrity.replace(/^sha512-/, ''), 'base64').toString('hex') }]
          : undefined,
      components: program ? partsOfNode(join(release.folder, 'node')) : undefined,
    };
  });
  const system = dependencies.map(({ name, required }) => ({
    'bom-ref': `deb:${name}`,
    type: 'application',
    name,
    scope: required ? 'required' : 'optional',
    purl: `pkg:deb/debian/${name}`,
  }));
  const components = [...bundled, ...system];
  const body = {
    bomFormat: 'CycloneDX',
    specVersion: '1.6',
    version: 1,
    metadata: {
      timestamp: new Date(epoch * 1000).toISOString(),
      component: { ...self, licenses: [{ license: { id: 'Apache-2.0' } }] },
    },
    components,
    dependencies: [
      { ref: 'sluice', dependsOn: components.map((one) => one['bom-ref']) },
      ...components.map((one) => ({ ref: one['bom-ref'] })),
    ],
  };
  // The serial number names this content, so that the same release has the same one.
  const hash = createHash('sha256').update(JSON.stringify(body)).digest('hex');
  const uuid = `${hash.slice(0, 8)}-${hash.slice(8, 12)}-5${hash.slice(13, 16)}-a${hash.slice(17, 20)}-${hash.slice(20, 32)}`;
  const { bomFormat, specVersion, ...rest } = body;
  return `${JSON.stringify({ bomFormat, specVersion, serialNumber: `urn:uuid:${uuid}`, ...rest }, null, 2)}\n`;
}

/** Versions that Node reports and that are of interfaces or data, not of code. */
const NO_CODE = new Set(['node', 'modules', 'napi', 'unicode', 'cldr', 'tz']);

/** The libraries that are compiled into Node (OpenSSL, V8, SQLite), by its own word. */
function partsOfNode(program: string) {
  const text = execFileSync(program, ['-p', 'JSON.stringify(process.versions)'], { encoding: 'utf8' });
  const versions = Object.entries(JSON.parse(text) as Record<string, string>);
  return versions
    .filter(([name, version]) => version !== '' && !NO_CODE.has(name))
    .map(([name, version]) => ({
      'bom-ref': `node:${name}@${version}`,
      type: 'library',
      name,
      version,
      purl: `pkg:generic/${name}@${encodeURIComponent(version)}`,
    }));
}

export function sha256(file: string): string {
  return createHash('sha256').update(readFileSync(file)).digest('hex');
}

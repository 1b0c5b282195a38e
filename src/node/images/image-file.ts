/** The image configuration (OCI image spec, config.md), checked as far as containers depend on it. */
import { SluiceError } from '../../errors.ts';
import { isObject, withNames } from '../../workers/json.ts';
import type { ImageConfig } from '../oci/image-config.ts';
import { isDigest } from './digest.ts';
import { type Descriptor, parseJson } from './manifest.ts';

/** `application/vnd.oci.image.config.v1+json`; fields that are not checked stay as they came. */
export interface ImageFile {
  architecture?: string;
  os?: string;
  variant?: string;
  created?: string;
  config?: ImageConfig | null;
  rootfs: { type: string; diff_ids: string[] };
}

const TOP = ['architecture', 'os', 'variant', 'created', 'config', 'rootfs', 'history', 'author'];
const CONFIG = ['User', 'Env', 'Entrypoint', 'Cmd', 'WorkingDir', 'Volumes', 'StopSignal', 'Labels', 'ExposedPorts'];

/** Reads an image's config and checks it against the manifest's layers. Throws IMAGE_INVALID. */
export function parseConfig(body: Buffer, layers: readonly Descriptor[]): ImageFile {
  const json = withNames(parseJson(body, 'the image config'), TOP);
  const rootfs = isObject(json.rootfs) ? withNames(json.rootfs, ['diff_ids']) : {};
  const diffIds = rootfs.diff_ids ?? [];
  if (!Array.isArray(diffIds) || !diffIds.every((id) => typeof id === 'string' && isDigest(id)))
    throw invalid('rootfs.diff_ids of the image config is not a list of digests');
  if (diffIds.length !== layers.length)
    throw invalid(`the manifest has ${layers.length} layers and the config ${diffIds.length} diffIDs`);
  const { architecture, os, variant, created, config, ...rest } = json;
  return {
    ...rest,
    ...(typeof architecture === 'string' && { architecture }),
    ...(typeof os === 'string' && { os }),
    ...(typeof variant === 'string' && { variant }),
    // Some tools write seconds here, or a form of their own: the time is for people only.
    ...(typeof created === 'string' && { created }),
    config: checkedConfig(config),
    rootfs: { type: 'layers', diff_ids: diffIds },
  };
}

function checkedConfig(value: unknown): ImageConfig | null {
  if (value === undefined || value === null) return null;
  if (!isObject(value)) throw wrong('config', 'an object', value);
  const config = withNames(value, CONFIG);
  for (const name of ['Entrypoint', 'Cmd', 'Env']) {
    const list = config[name];
    if (list === undefined || list === null) continue;
    const isList = Array.isArray(list) && list.every((item) => typeof item === 'string' || item === null);
    if (!isList) throw wrong(name, 'a list of strings', list);
    config[name] = list.map((item) => item ?? ''); // as Go's decoder reads null
  }
  for (const name of ['Volumes', 'Labels', 'ExposedPorts']) {
    const table = config[name];
    if (table !== undefined && table !== null && !isObject(table)) throw wrong(name, 'an object', table);
  }
  for (const name of ['User', 'WorkingDir', 'StopSignal']) {
    const text = config[name];
    if (text === null) delete config[name];
    else if (text !== undefined && typeof text !== 'string') throw wrong(name, 'a string', text);
  }
  return config as ImageConfig;
}

function wrong(name: string, form: string, value: unknown): SluiceError {
  const shown = JSON.stringify(value).slice(0, 100);
  return invalid(`${name} of the image config is ${shown}, and must be ${form}`);
}

const invalid = (message: string) => new SluiceError('IMAGE_INVALID', message);

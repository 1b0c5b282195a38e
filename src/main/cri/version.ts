import type { VersionRequest, VersionResponse } from '../../../proto/gen/cri.ts';
import { VERSION } from '../../version.ts';
import type { Unary } from './call.ts';

/** `version` is the version of kubelet's own runtime API, 0.1.0 for ever; the CRI version is `runtimeApiVersion`. */
export const version = (): Unary<VersionRequest, VersionResponse> => () => ({
  version: '0.1.0',
  runtimeName: 'sluice',
  runtimeVersion: VERSION,
  runtimeApiVersion: 'v1',
});

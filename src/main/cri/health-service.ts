/**
 * gRPC's health check beside CRI, on the same socket, as containerd has it: `grpc_health_probe -addr
 * unix:///run/sluice/sluice.sock` and the like. Watch is left out; the protocol allows UNIMPLEMENTED for it.
 */
import { HealthCheckResponse_ServingStatus, type HealthDefinition } from '../../../proto/gen/health.ts';
import { SluiceError } from '../../errors.ts';
import type { Verbs } from './call.ts';

/** `served` are the full names of the server's services; `health.reasons` say why no pod can be run. */
export const healthVerbs = (health: { readonly reasons: readonly string[] }, served: readonly string[]) =>
  ({
    check({ service }) {
      if (service !== '' && !served.includes(service)) throw SluiceError.of('SERVICE_NOT_FOUND', service);
      const { SERVING, NOT_SERVING } = HealthCheckResponse_ServingStatus;
      return { status: health.reasons.length === 0 ? SERVING : NOT_SERVING };
    },
  }) satisfies Verbs<HealthDefinition>;

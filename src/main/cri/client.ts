/** A client of both CRI services, for the command line tool and the tests: each call as an async function. */
import { ImageServiceDefinition, RuntimeServiceDefinition } from '../../../proto/gen/cri.ts';
import * as grpc from '../../node/grpc/client.ts';
import { grpcService } from '../../node/grpc/service.ts';

const services = { ...grpcService(RuntimeServiceDefinition), ...grpcService(ImageServiceDefinition) };

export type { CallOptions } from '../../node/grpc/client.ts';
/** Fields left out of a request have their protobuf defaults. */
export type Calls = grpc.Calls<typeof services>;
export type Streams = grpc.Streams<typeof services>;
export type Cri = grpc.ServiceClient<typeof services>;

/** Connects (lazily) to the CRI socket at `path`. Calls fail with grpc-js's ServiceError: `code`, `details`. */
export const connectCri = (path: string): Cri => grpc.connectService(path, services);

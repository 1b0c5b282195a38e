#!/bin/sh
# Generates proto/gen/*.ts from proto/*.proto. Needs protoc (Debian: protobuf-compiler); the result is committed,
# so only someone who changes a .proto needs it.
set -eu
cd "$(dirname "$0")/.."
command -v protoc >/dev/null || { echo "protoc is missing: apt-get install protobuf-compiler" >&2; exit 1; }
rm -rf proto/gen
mkdir -p proto/gen
options=env=node,forceLong=bigint,esModuleInterop=true,importSuffix=.ts,enumsAsLiterals=true,useExactTypes=false
options=$options,outputJsonMethods=false,outputPartialMethods=false,unrecognizedEnum=false,useDate=false,outputIndex=false
generate() { # generate SERVICES FILE...
	services=$1
	shift
	protoc -I proto --plugin=node_modules/.bin/protoc-gen-ts_proto --ts_proto_out=proto/gen \
		--ts_proto_opt="$options,outputServices=$services" "$@"
}
generate grpc-js proto/cri.proto
generate none $(ls proto/*.proto | grep -v cri.proto)

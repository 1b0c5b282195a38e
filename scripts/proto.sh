#!/bin/sh
# Generates proto/gen/*.ts from proto/*.proto: `npm run proto`. The result is committed, so only someone who changes a
# .proto needs protoc; test/unit/proto.test.ts compares the two.
#
#   proto.sh [FOLDER]   writes to FOLDER instead of proto/gen
#
# Ends with status 3 where protoc or the well-known types (google/protobuf/any.proto, ...) are missing.
set -eu
cd "$(dirname "$0")/.."
out=${1:-proto/gen}
missing() { echo "proto: $1 is missing: apt-get install protobuf-compiler libprotobuf-dev" >&2; exit 3; }
command -v protoc >/dev/null || missing protoc
# protoc looks for the well-known types beside its own folder.
[ -e "$(dirname "$(command -v protoc)")/../include/google/protobuf/any.proto" ] || missing google/protobuf/any.proto
rm -rf "$out"
mkdir -p "$out"
# Without the versions of protoc and ts-proto in each file, another protoc makes the same files.
options=annotateFilesWithVersion=false,env=node,forceLong=bigint,esModuleInterop=true,importSuffix=.ts,enumsAsLiterals=true
options=$options,useExactTypes=false,outputJsonMethods=false,outputPartialMethods=false,unrecognizedEnum=false,useDate=false
options=$options,outputIndex=false
generate() { # generate SERVICES FILE...
	services=$1
	shift
	protoc -I proto --plugin=node_modules/.bin/protoc-gen-ts_proto --ts_proto_out="$out" \
		--ts_proto_opt="$options,outputServices=$services" "$@"
}
# Generic definitions describe a service without a gRPC library: whoever reads a message does not load one.
generate generic-definitions proto/cri.proto proto/health.proto proto/snapshots.proto
generate none $(ls proto/*.proto | grep -v -e cri.proto -e health.proto -e snapshots.proto)

// A stargz-snapshotter for tests, made from its own library: what its daemon is without a configuration file, whose
// module the Go module proxy does not have.
//
//	stargz-snapshotter serve ROOT SOCKET    the snapshots service on a unix socket, until a signal
//	stargz-snapshotter convert TAR OUT      a layer in the eStargz form; prints its digests as JSON
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
)

func main() {
	err := fmt.Errorf("usage: %s serve ROOT SOCKET | convert TAR OUT", os.Args[0])
	if len(os.Args) == 4 {
		switch os.Args[1] {
		case "serve":
			err = serve(os.Args[2], os.Args[3])
		case "convert":
			err = convert(os.Args[2], os.Args[3])
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(root, socket string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	snapshotter, err := service.NewStargzSnapshotterService(ctx, root, &service.Config{})
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	go func() {
		<-ctx.Done()
		server.Stop()
	}()
	if err := server.Serve(listener); err != nil {
		return err
	}
	return snapshotter.Close()
}

func convert(tar, out string) error {
	file, err := os.Open(tar)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	blob, err := estargz.Build(io.NewSectionReader(file, 0, info.Size()))
	if err != nil {
		return err
	}
	defer blob.Close()
	target, err := os.Create(out)
	if err != nil {
		return err
	}
	defer target.Close()
	hash := digest.SHA256.Digester()
	size, err := io.Copy(io.MultiWriter(target, hash.Hash()), blob)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"digest": hash.Digest(), "size": size, "diffId": blob.DiffID(), "toc": blob.TOCDigest(),
	})
}

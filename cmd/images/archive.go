package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// nameAnnotation is where containerd looks for an image's full name in an OCI archive.
	nameAnnotation = "io.containerd.image.name"

	// inputsAnnotation keeps the fingerprint of what the archive was made from.
	inputsAnnotation = "skiff.dev/inputs"

	// maxIndex bounds the index of an archive, in bytes.
	maxIndex = 1 << 20
)

// writeImage writes the image of root and r as an OCI archive, and returns the image's digest.
func writeImage(file string, r recipe, root tree, inputs string) (string, error) {
	image, err := newImage(r, root)
	if err != nil {
		return "", err
	}
	temp, err := os.CreateTemp(filepath.Dir(file), ".images-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(temp.Name()) // Fails once renamed, as it should.
	defer temp.Close()
	if err := temp.Chmod(0o644); err != nil {
		return "", err
	}
	if err := writeArchive(temp, r.ref(), image, inputs); err != nil {
		return "", err
	}
	if err := temp.Close(); err != nil {
		return "", err
	}
	digest, err := image.Digest()
	if err != nil {
		return "", err
	}
	return digest.String(), os.Rename(temp.Name(), file)
}

// newImage makes an image of one layer, compressed with zstd: half the time to unpack of gzip.
func newImage(r recipe, root tree) (v1.Image, error) {
	var files bytes.Buffer
	if err := root.tar(&files); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil }
	layer, err := tarball.LayerFromOpener(open, tarball.WithCompression(compression.ZStd), tarball.WithMediaType(types.OCILayerZStd))
	if err != nil {
		return nil, fmt.Errorf("make the layer: %w", err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, fmt.Errorf("make the image: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("make the image: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Config = "linux", runtime.GOARCH, r.config
	config.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	return mutate.ConfigFile(image, config)
}

// writeArchive writes the OCI image layout as a tar: index.json, which names the image, and a blob for each of its parts.
func writeArchive(w io.Writer, ref string, image v1.Image, inputs string) error {
	manifest, err := image.RawManifest()
	if err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return err
	}
	configName, err := image.ConfigName()
	if err != nil {
		return err
	}
	index, err := json.Marshal(v1.IndexManifest{
		SchemaVersion: 2,
		MediaType:     types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: types.OCIManifestSchema1, Size: int64(len(manifest)), Digest: digest,
			Platform:    &v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
			Annotations: map[string]string{nameAnnotation: ref, inputsAnnotation: inputs},
		}},
	})
	if err != nil {
		return err
	}

	blobs := []blob{
		{"index.json", index}, // First, because readInputs wants nothing else.
		{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{"blobs/sha256/" + digest.Hex, manifest},
		{"blobs/sha256/" + configName.Hex, config},
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		b, err := layerBlob(layer)
		if err != nil {
			return err
		}
		blobs = append(blobs, b)
	}
	return writeBlobs(w, blobs)
}

// blob is one file of the archive.
type blob struct {
	name string
	data []byte
}

func layerBlob(layer v1.Layer) (blob, error) {
	digest, err := layer.Digest()
	if err != nil {
		return blob{}, err
	}
	compressed, err := layer.Compressed()
	if err != nil {
		return blob{}, err
	}
	defer compressed.Close()
	data, err := io.ReadAll(compressed)
	return blob{"blobs/sha256/" + digest.Hex, data}, err
}

func writeBlobs(w io.Writer, blobs []blob) error {
	out := tar.NewWriter(w)
	for _, b := range blobs {
		header := &tar.Header{Name: b.name, Mode: 0o644, Size: int64(len(b.data)), ModTime: time.Unix(0, 0)}
		if err := out.WriteHeader(header); err != nil {
			return fmt.Errorf("write %s: %w", b.name, err)
		}
		if _, err := out.Write(b.data); err != nil {
			return fmt.Errorf("write %s: %w", b.name, err)
		}
	}
	return out.Close()
}

// readInputs returns the fingerprint of what the archive in file was made from.
func readInputs(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	blobs := tar.NewReader(f)
	if header, err := blobs.Next(); err != nil {
		return "", err
	} else if header.Name != "index.json" {
		return "", errors.New("not an archive of this program")
	}
	var index v1.IndexManifest
	if err := json.NewDecoder(io.LimitReader(blobs, maxIndex)).Decode(&index); err != nil {
		return "", err
	}
	if len(index.Manifests) != 1 {
		return "", errors.New("not an archive of this program")
	}
	return index.Manifests[0].Annotations[inputsAnnotation], nil
}

// Registry tells by its exit status whether docker.io answers. `make up` asks it, to choose between pulling an image and
// making one.
//
// In Kubernetes: nothing. A cluster there pulls, and keeps trying.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"
)

const (
	registry = "https://registry-1.docker.io/v2/"
	patience = 3 * time.Second
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := answers(ctx, registry); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

// answers returns nil if a registry is at url: one says 200, or 401 to those who have not logged in.
func answers(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("%s says %s", url, response.Status)
	}
	return nil
}

// Command images writes the example's images, made of programs installed on
// this machine, to one archive for `cox image import`.
package main

import (
	"fmt"
	"os"

	"github.com/coxswain/cox/examples/postgresql"
)

func main() {
	path := "postgresql.tar"
	if len(os.Args) > 1 {
		path = os.Args[1]
	}
	if err := postgresql.Images(path); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
	fmt.Println(path)
}

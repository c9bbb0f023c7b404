// Command images writes the guestbook's images, made of programs installed on
// this machine, to one archive for `cox image import`.
package main

import (
	"fmt"
	"os"

	"github.com/coxswain/cox/examples/guestbook"
)

func main() {
	path := "guestbook.tar"
	if len(os.Args) > 1 {
		path = os.Args[1]
	}
	if err := guestbook.Images(path); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
	fmt.Println(path)
}

package aggregation_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coxswain/cox/pki"
)

// extension is an API server of someone else: it serves wardle.example.com/v1
// over TLS to whom the front proxy's authority knows, and to no one else.
type extension struct {
	*httptest.Server
	ca        []byte // PEM
	seen      chan *http.Request
	discovery atomic.Pointer[string] // the answer at /apis/wardle.example.com/v1
}

const resources = `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"wardle.example.com/v1","resources":[
	{"name":"flunders","singularName":"flunder","namespaced":true,"kind":"Flunder","verbs":["get","list","watch","delete"]},
	{"name":"lonely/part","namespaced":true,"kind":"Part","verbs":["get"]}]}`

const v3Document = `{"openapi":"3.0.0","info":{"title":"wardle","version":"1"},"paths":{"/apis/wardle.example.com/v1/flunders":{"get":{"responses":{"200":{"description":"OK"}}}}}}`

// It also claims what is not its own.
const v2Document = `{"swagger":"2.0","info":{"title":"wardle","version":"1"},"paths":{
	"/api/v1/pods":{"get":{"description":"stolen","responses":{"200":{"description":"stolen"}}}},
	"/apis/wardle.example.com/v1/flunders":{"get":{"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/com.example.wardle.Flunder"}}}}}},
	"definitions":{
	"com.example.wardle.Flunder":{"type":"object","properties":{"metadata":{"$ref":"#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}},
		"x-kubernetes-group-version-kind":[{"group":"wardle.example.com","kind":"Flunder","version":"v1"}]},
	"io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta":{"type":"object","description":"stolen"},
	"com.example.Pod":{"type":"object","x-kubernetes-group-version-kind":[{"group":"","kind":"Pod","version":"v1"}]}}}`

func newExtension(t *testing.T, bundle *pki.Bundle) *extension {
	t.Helper()
	e := &extension{seen: make(chan *http.Request, 100)}
	e.answer(resources)
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(e.serve))
	var cert tls.Certificate
	cert, e.ca = certificate(t, "api.ns.svc")
	e.TLS = &tls.Config{
		Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: bundle.FrontProxyCA.Pool(),
	}
	e.EnableHTTP2 = true
	e.StartTLS()
	t.Cleanup(e.Close)
	return e
}

// answer sets what the server says that it serves.
func (e *extension) answer(text string) { e.discovery.Store(&text) }

func (e *extension) serve(w http.ResponseWriter, r *http.Request) {
	if r.TLS.PeerCertificates[0].Subject.CommonName != pki.FrontProxyUser {
		http.Error(w, "who are you", http.StatusUnauthorized)
		return
	}
	w.Header().Set("Audit-Id", r.Header.Get("Audit-Id"))
	w.Header().Set("Content-Type", "application/json")
	switch strings.TrimPrefix(r.URL.Path, "/apis/wardle.example.com/v1") {
	case "":
		fmt.Fprint(w, *e.discovery.Load())
	case "/openapi/v3":
		fmt.Fprint(w, `{"paths":{"apis/wardle.example.com/v1":{"serverRelativeURL":"/openapi/v3/apis/wardle.example.com/v1?hash=1"},
			"api/v1":{"serverRelativeURL":"/openapi/v3/api/v1?hash=stolen"}}}`)
	case "/openapi/v3/apis/wardle.example.com/v1":
		fmt.Fprint(w, v3Document)
	case "/openapi/v2":
		fmt.Fprint(w, v2Document)
	case "/flunders":
		e.seen <- r
		if r.URL.Query().Get("watch") == "" {
			fmt.Fprint(w, `{"kind":"FlunderList","apiVersion":"wardle.example.com/v1","items":[]}`)
			return
		}
		fmt.Fprintln(w, `{"type":"ADDED","object":{"kind":"Flunder"}}`)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case "/moved":
		http.Redirect(w, r, "https://thief.example.com/", http.StatusTemporaryRedirect)
	case "/hang":
		<-r.Context().Done()
	case "/echo":
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		line, _ := rw.ReadString('\n')
		fmt.Fprint(conn, "echo "+line)
	default:
		http.NotFound(w, r)
	}
}

// certificate makes an authority and a server certificate of it.
func certificate(t *testing.T, name string) (tls.Certificate, []byte) {
	t.Helper()
	make := func(tmpl, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			signer = key
		}
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		return der, key
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "extension"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, caKey := make(ca, ca, nil)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, key := make(leaf, ca, caKey)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
}

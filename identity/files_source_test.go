package identity_test

import (
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshlite-go/meshlite/identity"
	"github.com/meshlite-go/meshlite/internal/certtest"
	"github.com/meshlite-go/meshlite/internal/sourcetest"
)

// filesAuthority writes the files that a source reads. Its way to them is the directory, and
// there is no right to lose: a file that may not be read is one that is away.
type filesAuthority struct {
	t           testing.TB
	files       *pemFiles
	authorities []*certtest.Authority // the last one signs
	away        bool
}

// renew writes another leaf and the roots, one file after the other.
func (a *filesAuthority) renew() {
	if a.away {
		return
	}
	signer := a.authorities[len(a.authorities)-1]
	leaf := signer.IssueID(a.t, time.Hour, good)
	var roots []byte
	for _, authority := range a.authorities {
		roots = slices.Concat(roots, authority.PEM)
	}
	a.files.certificate(a.t, leaf)
	a.files.write(a.t, a.files.config.Key, keyPEM(a.t, leaf))
	a.files.write(a.t, a.files.config.Roots, roots)
}

func (a *filesAuthority) addRoot() {
	a.authorities = append(a.authorities, certtest.New(a.t))
	a.renew()
}

func (a *filesAuthority) dropOldRoots() {
	a.authorities = a.authorities[len(a.authorities)-1:]
	a.renew()
}

func (a *filesAuthority) setReachable(is bool) {
	from, to := a.files.dir, a.files.dir+".away"
	if is {
		from, to = to, from
	}
	if err := os.Rename(from, to); err != nil {
		a.t.Error(err)
	}
	a.away = !is
}

func TestFilesAreASource(t *testing.T) {
	for name, check := range sourcetest.Checks {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &filesAuthority{t: t, files: newPEMFiles(t), authorities: []*certtest.Authority{certtest.New(t)}}
				a.renew()
				source, err := identity.Files(a.files.config)
				if err != nil {
					t.Fatal(err)
				}
				check(t, sourcetest.Source{
					Source: source, ID: good, Target: "catalog",
					Renew: a.renew, AddRoot: a.addRoot, DropOldRoots: a.dropOldRoots, SetReachable: a.setReachable,
				})
			})
		})
	}
}

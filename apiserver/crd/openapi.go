package crd

type documents struct{ m *Manager }

func newDocuments(m *Manager) *documents { return &documents{m} }

func (d *documents) changed() {}
